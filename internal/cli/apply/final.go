package apply

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"dstack/internal/api"
	"dstack/internal/cli/program"
	"dstack/internal/cli/term"
)

func (f *followed) final() error { return Final(f.Program, f.run) }

// Final tells how a run ended. A run that did not succeed gives exit code 1.
func Final(p *program.Program, r api.Run) error {
	message, failure, reason, detail := r.StatusMessage, deref(r.Error), deref(r.TerminationReason), ""
	done := r.Status == api.RunDone
	if s := r.LatestJobSubmission; s != nil {
		message, failure, reason, detail = s.StatusMessage, deref(s.Error), deref(s.TerminationReason), deref(s.TerminationReasonMessage)
	}
	if message == "" {
		message = string(r.Status)
	}
	if done {
		p.Println(capital(message))
		return nil
	}
	line := capital(message)
	if failure != "" {
		line += " (" + capital(failure) + ")"
	}
	p.Println(p.Paint(term.Error, line))
	if detail != "" {
		p.Println(p.Paint(term.Error, strings.TrimRight(detail, "\n")))
	}
	if reason != "" && reason != string(api.JobNoCapacity) && r.RunSpec.RunName != nil {
		p.Printf("Check %s for more details.\n", p.Paint(term.Code, "dstack logs -d "+*r.RunSpec.RunName))
	}
	return term.Exit(1)
}

func capital(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	if n == 0 {
		return s
	}
	return string(unicode.ToUpper(r)) + s[n:]
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
