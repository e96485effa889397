package runner

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"dstack/internal/agentapi"
)

// provisionHome lets the nodes of a cluster reach each other.
func (r *runner) provisionHome() error {
	c := r.spec.Cluster
	if c.PrivateKey == "" || len(c.NodeIPs) < 2 || !r.Container || r.acct.home == "/" {
		return nil
	}
	dir := filepath.Join(r.acct.home, ".ssh")
	if err := r.acct.own(r.acct.home); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o700); err != nil { // ssh refuses keys in an open folder
		return err
	}
	key := filepath.Join(dir, "dstack_job")
	if err := WriteFile(key, []byte(c.PrivateKey), 0o600); err != nil {
		return err
	}
	var b strings.Builder
	for _, ip := range c.NodeIPs {
		fmt.Fprintf(&b, "\nHost %s\n  Port %d\n  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n  IdentityFile %s\n", ip, agentapi.RunnerSSHPort, key)
	}
	f, err := os.OpenFile(filepath.Join(dir, "config"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(b.String())
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	r.chown(dir)
	r.ssh.AddKey(c.PublicKey)
	return err
}
