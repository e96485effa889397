package apply

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"dstack/internal/api"
	"dstack/internal/cli/format"
	"dstack/internal/cli/program"
	"dstack/internal/cli/term"
)

func (f *followed) final() error { return Final(f.Program, f.run) }

// Final tells how a run ended. A run that did not succeed gives exit code 1.
func Final(p *program.Program, r api.Run) error {
	message, failure, reason, detail := r.StatusMessage, format.Text(r.Error), format.Text(r.TerminationReason), ""
	done := r.Status == api.RunDone
	if s := r.LatestJobSubmission; s != nil {
		message, failure, reason, detail = s.StatusMessage, format.Text(s.Error), format.Text(s.TerminationReason), format.Text(s.TerminationReasonMessage)
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
