// Package doctor is `dstack server doctor`.
package doctor

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"dstack/internal/api"
	"dstack/internal/cli/format"
	"dstack/internal/cli/program"
	"dstack/internal/cli/term"
)

// New returns the command.
func New(p *program.Program) *cobra.Command {
	var project string
	var json bool
	cmd := &cobra.Command{
		Use: "doctor", Short: "Show what costs money now, and what of it could not be confirmed", Args: cobra.NoArgs,
		Long: "Ask every configured provider what exists and compare it with the server's ledger: what each thing is for,\n" +
			"what it costs per hour, what the provider does not confirm, and what nobody explains. Nothing is changed:\n" +
			"the server itself deletes what is unexplained and repeats deletions until the provider confirms them.\n" +
			"For administrators. The exit code is 1 when something could not be confirmed or a provider did not answer.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.Connect(project)
			if err != nil {
				return err
			}
			return run(cmd.Context(), p, c, json)
		},
	}
	program.ProjectFlag(cmd.Flags(), &project)
	cmd.Flags().BoolVar(&json, "json", false, "print JSON")
	return cmd
}

func run(ctx context.Context, p *program.Program, c *program.Conn, json bool) error {
	var d api.Doctor
	err := p.While("Asking the providers...", func() (err error) {
		d, err = c.Doctor(ctx)
		return err
	})
	if err != nil {
		return err
	}
	if json {
		if err := p.PrintJSON(d); err != nil {
			return err
		}
	} else {
		show(p, d)
	}
	if n := doubts(d); n > 0 {
		return fmt.Errorf("%d of %d need a look", n, len(d.Resources)+len(d.Accounts))
	}
	return nil
}

// doubts counts what could not be confirmed.
func doubts(d api.Doctor) int {
	n := 0
	for _, r := range d.Resources {
		if doubtful(r) {
			n++
		}
	}
	for _, a := range d.Accounts {
		if a.Error != "" {
			n++
		}
	}
	return n
}

func doubtful(r api.DoctorResource) bool {
	return r.Debt || r.Verdict == "unconfirmed" || r.Verdict == "unexplained" || r.Verdict == "broken"
}

func show(p *program.Program, d api.Doctor) {
	if len(d.Resources) == 0 {
		p.Println("Nothing that costs money exists.")
	} else {
		tb := &term.Table{Columns: term.Columns("PROJECT", "FOR", "KIND", "BACKEND", "RESOURCE", "STATE", "PRICE/H", "COST", "CREATED", "REMARK")}
		for _, r := range d.Resources {
			row := term.Row{}
			for _, text := range []string{r.Project, r.Name, r.Kind, format.Backend(r.Backend, r.Region), r.ID, r.Verdict, format.Price(r.HourlyUSD), format.Price(r.CostUSD), format.Age(p.Time(), r.Since.Time), r.Message} {
				row.Cells = append(row.Cells, term.Text(text))
			}
			if doubtful(r) {
				row.Style = term.Error
			}
			tb.Rows = append(tb.Rows, row)
		}
		p.Print(tb)
		p.Println()
		p.Println(fmt.Sprintf("In all %s per hour, of which %s could not be confirmed.", format.Price(d.HourlyUSD), format.Price(d.UnconfirmedUSD)))
	}
	for _, a := range d.Accounts {
		if a.Error != "" {
			p.Println(p.Paint(term.Error, fmt.Sprintf("Backend %s of project %s could not be asked: %s", a.Backend, a.Project, a.Error)))
		}
	}
}
