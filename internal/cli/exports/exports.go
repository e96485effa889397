// Package exports is `dstack export` and `dstack import`: what projects share with each other.
package exports

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"dstack/internal/api"
	"dstack/internal/cli/program"
	"dstack/internal/cli/term"
)

type command struct {
	*program.Program
	project   string
	json, yes bool
}

// with connects before f runs.
func (o *command) with(f func(context.Context, *program.Conn, []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := o.Connect(o.project)
		if err != nil {
			return err
		}
		return f(cmd.Context(), c, args)
	}
}

// NewExport returns `dstack export` and its subcommands; without one it lists.
func NewExport(p *program.Program) *cobra.Command {
	o := &command{Program: p}
	cmd := &cobra.Command{Use: "export", Short: "Manage exports", Args: cobra.NoArgs, RunE: o.with(o.listExports)}
	program.ProjectFlag(cmd.PersistentFlags(), &o.project)
	cmd.PersistentFlags().BoolVar(&o.json, "json", false, "print JSON")
	del := &cobra.Command{Use: "delete NAME", Short: "Delete an export", Args: cobra.ExactArgs(1), ValidArgsFunction: p.CompleteExports, RunE: o.with(o.deleteExport)}
	del.Flags().BoolVarP(&o.yes, "yes", "y", false, "do not ask for confirmation")
	cmd.AddCommand(
		&cobra.Command{Use: "list", Short: "List exports", Args: cobra.NoArgs, RunE: o.with(o.listExports)},
		o.createCommand(), o.updateCommand(), del,
	)
	return cmd
}

func (o *command) createCommand() *cobra.Command {
	req := api.CreateExportRequest{ImporterProjects: []string{}, ExportedFleets: []string{}, ExportedGateways: []string{}}
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Create an export", Args: cobra.ExactArgs(1),
		RunE: o.with(func(ctx context.Context, c *program.Conn, args []string) error {
			req.Name = args[0]
			e, err := c.CreateExport(ctx, c.Project, req)
			if err != nil {
				return err
			}
			return o.printExports([]api.Export{e})
		}),
	}
	f := cmd.Flags()
	f.StringArrayVar(&req.ImporterProjects, "importer", req.ImporterProjects, "a project that may use it; repeatable")
	f.StringArrayVar(&req.ExportedFleets, "fleet", req.ExportedFleets, "a fleet to share; repeatable")
	f.StringArrayVar(&req.ExportedGateways, "gateway", req.ExportedGateways, "a gateway to share; repeatable")
	f.BoolVar(&req.IsGlobal, "global", false, "share with all projects")
	return cmd
}

func (o *command) updateCommand() *cobra.Command {
	req := api.UpdateExportRequest{}
	cmd := &cobra.Command{
		Use: "update NAME", Short: "Update an export", Args: cobra.ExactArgs(1), ValidArgsFunction: o.CompleteExports,
		RunE: o.with(func(ctx context.Context, c *program.Conn, args []string) error {
			req.Name = args[0]
			e, err := c.UpdateExport(ctx, c.Project, req)
			if err != nil {
				return err
			}
			return o.printExports([]api.Export{e})
		}),
	}
	f := cmd.Flags()
	for _, l := range []struct {
		list *[]string
		name string
	}{
		{&req.AddImporterProjects, "add-importer"}, {&req.RemoveImporterProjects, "remove-importer"},
		{&req.AddExportedFleets, "add-fleet"}, {&req.RemoveExportedFleets, "remove-fleet"},
		{&req.AddExportedGateways, "add-gateway"}, {&req.RemoveExportedGateways, "remove-gateway"},
	} {
		*l.list = []string{}
		verb, noun, _ := strings.Cut(l.name, "-")
		f.StringArrayVar(l.list, l.name, []string{}, fmt.Sprintf("%s this %s; repeatable", verb, noun))
	}
	f.BoolVar(&req.SetGlobal, "set-global", false, "share with all projects")
	f.BoolVar(&req.UnsetGlobal, "unset-global", false, "share only with named projects")
	cmd.MarkFlagsMutuallyExclusive("set-global", "unset-global")
	return cmd
}

func (o *command) listExports(ctx context.Context, c *program.Conn, _ []string) error {
	es, err := c.ListExports(ctx, c.Project)
	if err != nil {
		return err
	}
	return o.printExports(es)
}

func (o *command) printExports(es []api.Export) error {
	if o.json {
		return o.PrintCompactJSON(append([]api.Export{}, es...))
	}
	tb := &term.Table{Columns: term.Columns("NAME", "FLEETS", "GATEWAYS", "IMPORTERS")}
	for _, e := range es {
		importers := make([]string, len(e.Imports))
		for i, im := range e.Imports {
			importers[i] = im.ProjectName
		}
		list := joined(importers)
		if e.IsGlobal {
			list = "*"
		}
		tb.Add(e.Name, names(e.ExportedFleets), names(e.ExportedGateways), list)
	}
	o.Print(tb)
	o.Println()
	return nil
}

func (o *command) deleteExport(ctx context.Context, c *program.Conn, args []string) error {
	if ok, err := o.Agreed(ctx, o.yes, fmt.Sprintf("Delete the export %s?", args[0])); err != nil || !ok {
		return err
	}
	if err := c.DeleteExport(ctx, c.Project, api.NameRequest{Name: args[0]}); err != nil {
		return err
	}
	o.Printf("Export %s deleted\n", args[0])
	return nil
}

// NewImport returns `dstack import` and its subcommands; without one it lists.
func NewImport(p *program.Program) *cobra.Command {
	o := &command{Program: p}
	cmd := &cobra.Command{Use: "import", Short: "Manage imports", Args: cobra.NoArgs, RunE: o.with(o.listImports)}
	program.ProjectFlag(cmd.PersistentFlags(), &o.project)
	cmd.PersistentFlags().BoolVar(&o.json, "json", false, "print JSON")
	del := &cobra.Command{
		Use: "delete PROJECT/EXPORT", Short: "Delete an import", ValidArgsFunction: p.CompleteImports, RunE: o.with(o.deleteImport),
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || strings.Count(args[0], "/") != 1 || strings.HasPrefix(args[0], "/") || strings.HasSuffix(args[0], "/") {
				return fmt.Errorf("write one import as PROJECT/EXPORT")
			}
			return nil
		},
	}
	del.Flags().BoolVarP(&o.yes, "yes", "y", false, "do not ask for confirmation")
	cmd.AddCommand(&cobra.Command{Use: "list", Short: "List imports", Args: cobra.NoArgs, RunE: o.with(o.listImports)}, del)
	return cmd
}

func (o *command) listImports(ctx context.Context, c *program.Conn, _ []string) error {
	is, err := c.ListImports(ctx, c.Project)
	if err != nil {
		return err
	}
	if o.json {
		return o.PrintCompactJSON(append([]api.Import{}, is...))
	}
	tb := &term.Table{Columns: term.Columns("NAME", "FLEETS", "GATEWAYS")}
	for _, i := range is {
		tb.Add(i.Export.ProjectName+"/"+i.Export.Name, names(i.Export.ExportedFleets), names(i.Export.ExportedGateways))
	}
	o.Print(tb)
	o.Println()
	return nil
}

func (o *command) deleteImport(ctx context.Context, c *program.Conn, args []string) error {
	if ok, err := o.Agreed(ctx, o.yes, fmt.Sprintf("Delete the import %s?", args[0])); err != nil || !ok {
		return err
	}
	project, name, _ := strings.Cut(args[0], "/")
	if err := c.DeleteImport(ctx, c.Project, api.DeleteImportRequest{ExportName: name, ExportProjectName: project}); err != nil {
		return err
	}
	o.Printf("Import %s deleted\n", args[0])
	return nil
}

func names(list []api.Named) string {
	out := make([]string, len(list))
	for i, n := range list {
		out[i] = n.Name
	}
	return joined(out)
}

func joined(list []string) string {
	if len(list) == 0 {
		return "-"
	}
	return strings.Join(list, ", ")
}
