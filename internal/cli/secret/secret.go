// Package secret is `dstack secret`.
package secret

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"dstack/internal/api"
	"dstack/internal/cli/program"
	"dstack/internal/cli/term"
)

// maxValue bounds a secret read from standard input, in bytes.
const maxValue = 1 << 20

// New returns the command and its subcommands; without one it lists.
func New(p *program.Program) *cobra.Command {
	var project string
	var json bool
	cmd := &cobra.Command{Use: "secret", Short: "Manage secrets", Args: cobra.NoArgs}
	program.ProjectFlag(cmd.PersistentFlags(), &project)
	cmd.PersistentFlags().BoolVar(&json, "json", false, "print JSON")
	connected := func(f func(context.Context, *program.Conn, []string) error) func(*cobra.Command, []string) error {
		return func(cmd *cobra.Command, args []string) error {
			c, err := p.Connect(project)
			if err != nil {
				return err
			}
			return f(cmd.Context(), c, args)
		}
	}
	list := connected(func(ctx context.Context, c *program.Conn, _ []string) error { return List(ctx, p, c, json) })
	cmd.RunE = list
	var yes bool
	del := &cobra.Command{
		Use: "delete NAME", Short: "Delete a secret", Args: cobra.ExactArgs(1), ValidArgsFunction: p.CompleteSecrets,
		RunE: connected(func(ctx context.Context, c *program.Conn, args []string) error {
			return Delete(ctx, p, c, args[0], yes)
		}),
	}
	del.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask for confirmation")
	cmd.AddCommand(
		&cobra.Command{Use: "list", Short: "List secrets", Args: cobra.NoArgs, RunE: list},
		&cobra.Command{
			Use: "get NAME", Short: "Show the value of a secret", Args: cobra.ExactArgs(1), ValidArgsFunction: p.CompleteSecrets,
			RunE: connected(func(ctx context.Context, c *program.Conn, args []string) error { return Get(ctx, p, c, args[0], json) }),
		},
		&cobra.Command{
			Use: "set NAME VALUE", Short: "Set a secret; the value - is read from standard input", Args: cobra.ExactArgs(2),
			RunE: connected(func(ctx context.Context, c *program.Conn, args []string) error {
				return Set(ctx, p, c, args[0], args[1])
			}),
		},
		del,
	)
	return cmd
}

// List prints the names of the secrets.
func List(ctx context.Context, p *program.Program, c *program.Conn, json bool) error {
	secrets, err := c.ListSecrets(ctx, c.Project)
	if err != nil {
		return err
	}
	if json {
		return p.PrintJSON(secrets)
	}
	tb := &term.Table{Columns: term.Columns("NAME", "VALUE")}
	for _, s := range secrets {
		tb.Add(s.Name, "******")
	}
	p.Print(tb)
	p.Println()
	return nil
}

// Get prints the value of a secret.
func Get(ctx context.Context, p *program.Program, c *program.Conn, name string, json bool) error {
	s, err := c.GetSecret(ctx, c.Project, api.GetSecretRequest{Name: name})
	if program.NotFound(err) {
		return fmt.Errorf("Secret %s not found. See `dstack secret` for those that exist", name)
	}
	if err != nil {
		return err
	}
	if json {
		return p.PrintJSON(s)
	}
	tb := &term.Table{Columns: term.Columns("NAME", "VALUE")}
	value := ""
	if s.Value != nil {
		value = *s.Value
	}
	tb.Add(s.Name, value)
	p.Print(tb)
	p.Println()
	return nil
}

// Set creates or replaces a secret. The value "-" is read from the input, without the newline at its end.
func Set(ctx context.Context, p *program.Program, c *program.Conn, name, value string) error {
	if value == "-" {
		b, err := io.ReadAll(io.LimitReader(p.In, maxValue+1))
		if err != nil {
			return fmt.Errorf("read value of secret %s: %w", name, err)
		}
		if len(b) > maxValue {
			return fmt.Errorf("the value of secret %s is larger than %d bytes", name, maxValue)
		}
		value = strings.TrimSuffix(string(b), "\n")
	}
	if _, err := c.SetSecret(ctx, c.Project, api.SetSecretRequest{Name: name, Value: value}); err != nil {
		return err
	}
	p.Println("OK")
	return nil
}

// Delete deletes a secret after asking.
func Delete(ctx context.Context, p *program.Program, c *program.Conn, name string, yes bool) error {
	if ok, err := p.Agreed(ctx, yes, fmt.Sprintf("Delete the secret %s?", name)); err != nil || !ok {
		return err
	}
	if err := c.DeleteSecrets(ctx, c.Project, api.DeleteSecretsRequest{SecretsNames: []string{name}}); err != nil {
		return err
	}
	p.Println("OK")
	return nil
}
