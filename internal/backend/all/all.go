// Package all lists the backends of this build. To add one, add its line.
package all

import (
	"dstack/internal/agentbin"
	"dstack/internal/backend"
	"dstack/internal/backend/lambda"
	"dstack/internal/backend/local"
)

// Types returns every backend. agents are the binaries that the local one runs.
func Types(agents *agentbin.Source) []backend.Type {
	return []backend.Type{
		lambda.Type,
		local.Type(agents),
	}
}
