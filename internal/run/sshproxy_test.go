package run

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
)

func TestSSHProxy(t *testing.T) {
	const id, hex = "0f0e0d0c-0b0a-4908-8706-050403020100", "0f0e0d0c0b0a49088706050403020100"
	url := "vscode://vscode-remote/ssh-remote+dev/workflow"
	run := func() api.Run {
		return api.Run{Jobs: []api.Job{
			{JobSubmissions: []api.JobSubmission{{ID: "earlier"}, {ID: id}}, JobConnectionInfo: &api.JobConnectionInfo{AttachedSSHCommand: []string{"ssh", "dev"}, AttachedIDEURL: &url}},
			{JobSubmissions: []api.JobSubmission{{ID: "ended"}}},
		}}
	}
	proxied := func(command []string, proxiedURL string, port *int) *api.JobConnectionInfo {
		host, upstream := "ssh.example.com", hex
		return &api.JobConnectionInfo{AttachedSSHCommand: []string{"ssh", "dev"}, AttachedIDEURL: &url, ProxiedSSHCommand: command, ProxiedIDEURL: &proxiedURL,
			SSHProxyHostname: &host, SSHProxyPort: port, SSHProxyUpstreamID: &upstream}
	}
	port := 2222
	for name, tt := range map[string]struct {
		proxy SSHProxy
		want  *api.JobConnectionInfo
	}{
		"none": {SSHProxy{}, run().Jobs[0].JobConnectionInfo},
		"on the usual port": {SSHProxy{Host: "ssh.example.com"},
			proxied([]string{"ssh", hex + "@ssh.example.com"}, "vscode://vscode-remote/ssh-remote+"+hex+"@ssh.example.com/workflow", nil)},
		"on another port": {SSHProxy{Host: "ssh.example.com", Port: port},
			proxied([]string{"ssh", hex + "@ssh.example.com", "-p", "2222"}, "vscode://vscode-remote/ssh-remote+"+hex+"@ssh.example.com:2222/workflow", &port)},
	} {
		v := run()
		tt.proxy.connect(&v)
		if diff := cmp.Diff(tt.want, v.Jobs[0].JobConnectionInfo); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if v.Jobs[1].JobConnectionInfo != nil {
			t.Errorf("%s: a job that does not run has a connection", name)
		}
	}
}

func TestUserKeys(t *testing.T) {
	if got := (SSHProxy{Host: "ssh.example.com"}).userKeys("ssh-ed25519 AAAA\n"); !slices.Equal(got, []string{"ssh-ed25519 AAAA"}) {
		t.Errorf("beside a proxy, hosts let in %q", got)
	}
	if got := (SSHProxy{Host: "ssh.example.com", Enforced: true}).userKeys("ssh-ed25519 AAAA"); len(got) != 0 {
		t.Errorf("behind a proxy, hosts let in %q", got)
	}
}
