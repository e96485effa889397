package apply

import (
	"cmp"
	"context"
	"fmt"

	"dstack/internal/api"
	"dstack/internal/cli/format"
	"dstack/internal/cli/program"
	"dstack/internal/cli/specdiff"
	"dstack/internal/cli/term"
	"dstack/internal/cli/volume"
	"dstack/internal/config"
)

// applyVolume shows what a volume would be, asks, creates it, and waits until it is there.
// The server makes no plan for volumes.
func applyVolume(ctx context.Context, o Options, f File) error {
	c, err := o.Connect(o.Project)
	if err != nil {
		return err
	}
	va := volumeApply{Options: o, conn: c, conf: *f.Volume, path: f.Path}
	var current *api.Volume
	var user string
	err = o.While("Getting apply plan...", func() error {
		u, err := c.GetMyUser(ctx)
		if err != nil {
			return err
		}
		user = u.Username
		current, err = va.current(ctx)
		return err
	})
	if err != nil {
		return err
	}
	va.print(user)
	d, err := va.decide(current)
	if err != nil {
		return err
	}
	if ok, err := o.approved(ctx, d); err != nil || !ok {
		return err
	}
	return va.execute(ctx, d)
}

type volumeApply struct {
	Options
	conn *program.Conn
	conf config.Volume
	path string
}

// current is the volume with that name, nil if there is none.
func (va *volumeApply) current(ctx context.Context) (*api.Volume, error) {
	if va.conf.Name == nil {
		return nil, nil
	}
	v, err := va.conn.GetVolume(ctx, va.conn.Project, api.NameRequest{Name: *va.conf.Name})
	if program.NotFound(err) {
		return nil, nil
	}
	return &v, err
}

func (va *volumeApply) print(user string) {
	kind, size := "managed", "-"
	if va.conf.VolumeID != nil || va.conf.ClaimName != nil {
		kind = "external"
	}
	if va.conf.Size != nil {
		size = va.conf.Size.String()
	}
	facts := [][2]string{
		{"Project", va.conn.Project}, {"User", user}, {"Configuration", va.path}, {"Type", "volume"},
		{"Volume type", kind}, {"Backend", va.conf.Backend},
	}
	if va.conf.Region != "" {
		facts = append(facts, [2]string{"Region", va.conf.Region})
	}
	va.Facts(append(facts, [2]string{"Size", size}))
	va.Println()
}

func (va *volumeApply) decide(current *api.Volume) (decision, error) {
	if current == nil {
		d := decision{question: "Create the volume?"}
		if va.conf.Name != nil {
			d.message = fmt.Sprintf("Volume %s does not exist yet.", *va.conf.Name)
		}
		return d, nil
	}
	changed, err := specdiff.Fields(current.Configuration, va.conf)
	if err != nil {
		return decision{}, err
	}
	d := decision{question: "Re-create the volume?", override: true, same: len(changed) == 0}
	d.message = fmt.Sprintf("Found volume %s. Configuration changes detected.", current.Name)
	if d.same {
		d.message = fmt.Sprintf("Found volume %s. No configuration changes detected.", current.Name)
	}
	return d, nil
}

func (va *volumeApply) execute(ctx context.Context, d decision) error {
	if d.override {
		err := va.While("Deleting existing volume...", func() error {
			if err := va.conn.DeleteVolumes(ctx, va.conn.Project, api.NamesRequest{Names: []string{*va.conf.Name}}); err != nil {
				return err
			}
			return gone(ctx, func(ctx context.Context) error {
				_, err := va.conn.GetVolume(ctx, va.conn.Project, api.NameRequest{Name: *va.conf.Name})
				return err
			})
		})
		if err != nil {
			return err
		}
	}
	var v api.Volume
	err := va.While("Creating volume...", func() (err error) {
		v, err = va.conn.CreateVolume(ctx, va.conn.Project, api.CreateVolumeRequest{Configuration: va.conf})
		return err
	})
	if err != nil {
		return err
	}
	if va.Detach {
		va.Println("Volume configuration submitted. Exiting...")
		return nil
	}
	v, err = va.wait(ctx, v)
	if ctx.Err() != nil {
		return va.leave(ctx, "Volume", func(ctx context.Context) error {
			return va.conn.DeleteVolumes(ctx, va.conn.Project, api.NamesRequest{Names: []string{v.Name}})
		})
	}
	if err != nil {
		return err
	}
	failed := v.Status == "failed"
	va.Print(volume.Table([]api.Volume{v}, va.Verbose || failed, va.Time()))
	if failed {
		va.failure("Provisioning failed. Error: " + cmp.Or(format.Text(v.StatusMessage), "unknown"))
		return term.Exit(1)
	}
	return nil
}

func (va *volumeApply) wait(ctx context.Context, v api.Volume) (api.Volume, error) {
	return progress[api.Volume]{
		title:   func(v api.Volume) string { return provisioning(v.Name) },
		table:   func(v api.Volume) *term.Table { return volume.Table([]api.Volume{v}, va.Verbose, va.Time()) },
		settled: func(v api.Volume) bool { return v.Status == "active" || v.Status == "failed" },
		get: func(ctx context.Context) (api.Volume, error) {
			return va.conn.GetVolume(ctx, va.conn.Project, api.NameRequest{Name: v.Name})
		},
	}.wait(ctx, va.Options, v)
}
