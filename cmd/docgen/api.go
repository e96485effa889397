package main

import (
	"fmt"
	"strings"

	"dstack/internal/server"
)

// apiPage lists the routes of the server.
func apiPage() (string, error) {
	var b strings.Builder
	b.WriteString("# HTTP API\n\n" + generated)
	b.WriteString("A running server describes itself: `/api/docs` for people, `/openapi.json` for programs. Requests carry\n" +
		"`Authorization: Bearer TOKEN` and JSON bodies. Errors: 400 `{\"detail\": [{\"msg\", \"code\"}]}` for what cannot be done,\n" +
		"422 `{\"detail\": [{\"type\", \"loc\", \"msg\", \"input\"}]}` for what cannot be read, 401 without and 403 with a wrong token or\n" +
		"role, 404 for an unknown project.\n\n| Method | Path | Who may |\n|---|---|---|\n")
	for _, r := range server.Routes() {
		fmt.Fprintf(&b, "| %s | `%s` | %s |\n", r.Method, r.Path, r.Permission)
	}
	b.WriteString("\nWho may: `auth` is any user, `project-…` a member of the project with at least that role, `…-or-public` also anybody if\nthe project is public. Global administrators may everything.\n")
	return b.String(), nil
}
