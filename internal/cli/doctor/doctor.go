// Package doctor is `dstack server doctor`.
package doctor

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"dstack/internal/api"
	"dstack/internal/cli/format"
	"dstack/internal/cli/program"
	"dstack/internal/cli/term"
)

// New returns the command.
func New(p *program.Program) *cobra.Command {
	var project string
	var json, yes bool
	var forget string
	cmd := &cobra.Command{
		Use: "doctor", Short: "Show what costs money now, and what of it could not be confirmed", Args: cobra.NoArgs,
		Long: "Ask every configured provider what exists and compare it with the server's ledger: what each thing is for,\n" +
			"what it costs per hour, what the provider does not confirm, and what nobody explains. Nothing is changed:\n" +
			"the server itself deletes what is unexplained and repeats deletions until the provider confirms them.\n" +
			"For administrators. The exit code is 1 when something could not be confirmed or a provider did not answer.\n\n" +
			"With --forget the server gives up one thing that no credentials answer for any more, such as a machine\n" +
			"whose key was revoked: it counts as gone, and its fleet goes on. Make sure with the provider that it is\n" +
			"deleted: nobody else does. The server refuses to forget what can be asked about. A backend that is\n" +
			"configured may only be failing for a while: delete what the thing is for (its fleet, say) first, and give\n" +
			"it up when the backend has not answered for ten minutes after that.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.Connect(project)
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("forget") {
				return giveUp(cmd.Context(), p, c, forget, yes)
			}
			return run(cmd.Context(), p, c, json)
		},
	}
	program.ProjectFlag(cmd.Flags(), &project)
	cmd.Flags().BoolVar(&json, "json", false, "print JSON")
	cmd.Flags().StringVar(&forget, "forget", "", "the intent to give up")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask for confirmation")
	cmd.MarkFlagsMutuallyExclusive("json", "forget")
	return cmd
}

// giveUp has the server forget one resource.
func giveUp(ctx context.Context, p *program.Program, c *program.Conn, intent string, yes bool) error {
	ok, err := p.Agreed(ctx, yes, "Is it certain that the provider has deleted it? If not, it goes on costing money. Forget it?")
	if err != nil || !ok {
		return err
	}
	var r api.DoctorResource
	err = p.While("Asking the providers...", func() (err error) {
		r, err = c.Forget(ctx, intent)
		return err
	})
	if err != nil {
		return err
	}
	p.Println(fmt.Sprintf("Forgot the %s %s of %s.", r.Kind, cmp.Or(r.ID, intent), format.Backend(r.Backend, r.Region)))
	return nil
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
		if a.Error != "" || a.Unread != "" {
			n++
		}
	}
	return n
}

func doubtful(r api.DoctorResource) bool {
	return r.Debt || r.Verdict == "unconfirmed" || r.Verdict == "unexplained" || r.Verdict == "broken"
}

func show(p *program.Program, d api.Doctor) {
	silent := slices.ContainsFunc(d.Accounts, func(a api.DoctorAccount) bool { return a.Error != "" || a.Unread != "" })
	switch {
	case len(d.Resources) == 0 && silent:
		p.Println("Nothing that costs money is known. Not every provider could be asked:")
	case len(d.Resources) == 0:
		p.Println("Nothing that costs money exists.")
	default:
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
	for _, r := range d.Resources {
		if r.Forgettable {
			p.Println(fmt.Sprintf("No credentials answer for %s. If the provider has deleted it for certain: dstack server doctor --forget %s", cmp.Or(r.ID, "the "+r.Kind+" of "+format.Backend(r.Backend, r.Region)), r.Intent))
		}
	}
	for _, a := range d.Accounts {
		if a.Error != "" {
			p.Println(p.Paint(term.Error, fmt.Sprintf("Backend %s of project %s could not be asked: %s", a.Backend, a.Project, a.Error)))
		}
		if a.Unread != "" {
			p.Println(p.Paint(term.Error, fmt.Sprintf("Backend %s of project %s was not understood: %s", a.Backend, a.Project, a.Unread)))
		}
	}
}
