// Package jobspectest makes the specifications of runs that tests of several packages need. Only tests
// import it.
package jobspectest

import (
	"dstack/internal/api"
	"dstack/internal/config"
)

// Parse is what a client sends for a file.
func Parse(yaml string) (api.RunSpec, error) {
	c, err := config.Parse("x.dstack.yml", []byte(yaml))
	if err != nil {
		return api.RunSpec{}, err
	}
	run := c.Run
	return api.RunSpec{RunName: run.Common().Name, Configuration: *run, Profile: &config.Profile{Name: "default"}}, nil
}
