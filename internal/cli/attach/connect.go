package attach

import (
	"context"

	"dstack/internal/api"
	"dstack/internal/cli/format"
	"dstack/internal/cli/program"
)

// KeyOf returns the path of the private key that opens a run: the given identity, or the one that the run was
// submitted with.
func KeyOf(ctx context.Context, p *program.Program, c *program.Conn, r api.Run, identity string) (string, error) {
	if identity != "" {
		wd, err := p.WorkDir()
		if err != nil {
			return "", err
		}
		path := p.Path(wd, identity)
		if _, err := readSigner(path); err != nil {
			return "", err
		}
		return path, nil
	}
	k := Keys{Dir: p.Dir().SSH(), Token: c.Token, Now: p.Time, Fetch: func(ctx context.Context) (string, string, error) {
		u, err := c.GetMyUser(ctx)
		return format.Text(u.SSHPrivateKey), format.Text(u.SSHPublicKey), err
	}}
	return k.For(ctx, format.Text(r.RunSpec.SSHKeyPub))
}
