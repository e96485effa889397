package apply

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"dstack/internal/api"
	"dstack/internal/cli/format"
	"dstack/internal/cli/gateway"
	"dstack/internal/cli/program"
	"dstack/internal/cli/specdiff"
	"dstack/internal/cli/term"
)

// applyGateway plans a gateway, asks, creates or changes it, and waits until it runs.
func applyGateway(ctx context.Context, o Options, f File) error {
	c, err := o.Connect(o.Project)
	if err != nil {
		return err
	}
	ga := gatewayApply{Options: o, conn: c, spec: api.GatewaySpec{Configuration: *f.Gateway, ConfigurationPath: &f.Path}}
	err = o.While("Getting apply plan...", func() (err error) {
		ga.plan, err = c.GetGatewayPlan(ctx, c.Project, api.GetGatewayPlanRequest{Spec: ga.spec})
		return err
	})
	if err != nil {
		return err
	}
	ga.print()
	d, err := ga.decide()
	if err != nil {
		return err
	}
	if ok, err := o.approved(ctx, d); err != nil || !ok {
		return err
	}
	return ga.execute(ctx, d)
}

type gatewayApply struct {
	Options
	conn *program.Conn
	spec api.GatewaySpec
	plan api.GatewayPlan
}

func (ga *gatewayApply) effective() api.GatewaySpec {
	if ga.plan.EffectiveSpec != nil {
		return *ga.plan.EffectiveSpec
	}
	return ga.plan.Spec
}

func (ga *gatewayApply) print() {
	spec := ga.effective()
	c := spec.Configuration
	facts := [][2]string{
		{"Project", ga.plan.ProjectName}, {"User", ga.plan.User}, {"Configuration", cmp.Or(format.Text(spec.ConfigurationPath), "?")},
		{"Type", "gateway"}, {"Backend", c.Backend}, {"Region", c.Region}, {"Domain", cmp.Or(format.Text(c.Domain), "-")},
	}
	if c.Replicas != nil {
		facts = append(facts, [2]string{"Replicas", strconv.Itoa(*c.Replicas)})
	}
	ga.Facts(facts)
	ga.Println()
}

func (ga *gatewayApply) decide() (decision, error) {
	current := ga.plan.CurrentResource
	c := ga.effective().Configuration
	if current == nil {
		d := decision{question: "Create the gateway?"}
		if c.Name != nil {
			d.message = fmt.Sprintf("Gateway %s does not exist yet.", *c.Name)
		}
		return d, nil
	}
	fields, err := specdiff.Fields(current.Configuration, c)
	if err != nil {
		return decision{}, err
	}
	if c.Default == nil {
		fields = slices.DeleteFunc(fields, func(f string) bool { return f == "default" })
	}
	found := fmt.Sprintf("Found gateway %s.", current.Name)
	list := "\n- " + strings.Join(fields, "\n- ") + "\n"
	switch {
	case len(fields) == 0:
		return decision{
			message: found + " No configuration changes detected.", question: "Re-create the gateway?", same: true, override: true,
		}, nil
	case ga.plan.Action == api.ActionUpdate:
		return decision{message: found + " Detected changes that can be updated in-place:" + list, question: "Update the gateway?", done: "updated"}, nil
	default:
		return decision{
			message: found + " Detected changes that cannot be updated in-place:" + list, question: "Re-create the gateway?", override: true,
		}, nil
	}
}

func (ga *gatewayApply) execute(ctx context.Context, d decision) error {
	if d.override {
		name := ga.plan.CurrentResource.Name
		err := ga.While("Deleting existing gateway...", func() error {
			if err := ga.conn.DeleteGateways(ctx, ga.conn.Project, api.NamesRequest{Names: []string{name}}); err != nil {
				return err
			}
			return gone(ctx, func(ctx context.Context) error {
				_, err := ga.conn.GetGateway(ctx, ga.conn.Project, api.NameRequest{Name: name})
				return err
			})
		})
		if err != nil {
			return err
		}
	}
	req := api.ApplyGatewayPlanRequest{}
	req.Plan.Spec = ga.spec
	if ga.plan.CurrentResource != nil {
		data, err := json.Marshal(ga.plan.CurrentResource)
		if err != nil {
			return fmt.Errorf("encode the gateway: %w", err)
		}
		req.Plan.CurrentResource = data
	}
	var g api.Gateway
	err := ga.While("Applying plan...", func() (err error) {
		g, err = ga.conn.ApplyGatewayPlan(ctx, ga.conn.Project, req)
		return err
	})
	if err != nil {
		return err
	}
	if ga.Detach && d.done != "updated" {
		ga.Println("Gateway configuration submitted. Exiting...")
		return nil
	}
	if d.done != "updated" {
		g, err = ga.wait(ctx, g)
	}
	if ctx.Err() != nil {
		return ga.leave(ctx, "Gateway", func(ctx context.Context) error {
			return ga.conn.DeleteGateways(ctx, ga.conn.Project, api.NamesRequest{Names: []string{g.Name}})
		})
	}
	if err != nil {
		return err
	}
	failed := g.Status == "failed"
	ga.Print(gateway.Table([]api.Gateway{g}, gateway.TableOptions{Project: ga.conn.Project, Verbose: ga.Verbose || failed, Created: true, Now: ga.Time()}))
	if failed {
		ga.failure("Provisioning failed. Error: " + cmp.Or(format.Text(g.StatusMessage), "unknown"))
		return term.Exit(1)
	}
	return nil
}

func (ga *gatewayApply) wait(ctx context.Context, g api.Gateway) (api.Gateway, error) {
	return progress[api.Gateway]{
		title: func(g api.Gateway) string { return provisioning(g.Name) },
		table: func(g api.Gateway) *term.Table {
			return gateway.Table([]api.Gateway{g}, gateway.TableOptions{Project: ga.conn.Project, Verbose: ga.Verbose, Created: true, Now: ga.Time()})
		},
		settled: func(g api.Gateway) bool { return g.Status == "running" || g.Status == "failed" },
		get: func(ctx context.Context) (api.Gateway, error) {
			return ga.conn.GetGateway(ctx, ga.conn.Project, api.NameRequest{Name: g.Name})
		},
	}.wait(ctx, ga.Options, g)
}
