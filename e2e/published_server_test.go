//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestPublishedServer has our client talk to the published original's server, which has no
// backends and no hosts here: its agents come from the internet.
func TestPublishedServer(t *testing.T) {
	t.Parallel()
	w := prepareWorld(t)
	w.startPublishedServer()
	expect := func(code int, command string, words ...string) string {
		t.Helper()
		r := w.run(strings.Fields(command)...)
		if r.Code != code {
			t.Errorf("dstack %s: exit code %d, want %d\n%s", command, r.Code, code, r.both())
		}
		for _, word := range words {
			if !strings.Contains(r.both(), word) {
				t.Errorf("dstack %s does not print %q:\n%s", command, word, r.both())
			}
		}
		return r.Out
	}

	add := "project add --url " + w.url() + " -y"
	expect(1, add+" --name main --token wrong", "denied", "check your access token")
	expect(1, add+" --name nope --token "+w.token, "404", "no project nope")
	expect(0, add+" --name main --token "+w.token, "Configuration updated")

	expect(0, "ps", "NAME", "STATUS")
	expect(0, "fleet", "NAME", "NODES")
	expect(0, "volume", "NAME")
	expect(0, "gateway", "NAME")
	expect(0, "secret set token abc", "OK")
	expect(0, "secret list", "token", "******")
	expect(0, "secret get token", "abc")
	expect(0, "secret delete token -y", "OK")
	expect(0, "offer", "No matching instance offers")
	expect(0, "offer --group-by gpu", "Group by")
	var offers struct{ Offers []any }
	if err := json.Unmarshal([]byte(expect(0, "offer --json")), &offers); err != nil {
		t.Error(err)
	}
	expect(0, "event", "[project main] Project created", "[secret token] Secret deleted")
	expect(1, "export list", "does not support exports")
	expect(1, "import list", "does not support exports")
	for _, command := range []string{"logs", "logs -f", "attach", "stop -y", "metrics", "run get --json"} {
		expect(1, command+" nosuch", "Run nosuch not found")
	}

	w.write("bad.yml", "type: task\nname: bad\ncomands: [\"true\"]\n")
	expect(1, "apply -y -f bad.yml", "bad.yml:3:1: task.comands")
	w.write("cloud.yml", "type: volume\nname: vol\nbackend: aws\nregion: us-east-1\nsize: 100GB\n")
	expect(1, "apply -y -f cloud.yml", "aws not available")
	w.write("lonely.yml", "type: task\nname: lonely\ncommands: [\"true\"]\n")
	expect(1, "apply -y -f lonely.yml", "The project has no fleets", "No matching fleet found")
	w.write("svc.yml", "type: service\nname: svc\nport: 80\ncommands: [\"true\"]\n")
	expect(0, "apply -y -d -f svc.yml", "submitted, detaching")
	expect(0, "ps -a -v", "lonely", "no fleets", "svc")
	expect(0, "logs -f lonely")
	expect(1, "attach lonely", "failed")
	expect(0, "event --target-run lonely", "[run lonely] Run submitted")
	expect(0, "stop -y svc", "Stopped")

	w.write("hosts.yml", "type: fleet\nname: hosts\nssh_config:\n  user: root\n  identity_file: "+w.key+"\n  hosts: [127.0.0.1]\n")
	expect(0, "apply -y -d -f hosts.yml", "does not exist yet")
	expect(0, "apply -y -d -f hosts.yml", "No configuration changes detected")
	expect(0, "fleet", "hosts", "instance=0")
	expect(0, "fleet delete hosts -y", "deleted")
	expect(0, "ps -a", "lonely")
	expect(0, "delete -y -f lonely.yml", "deleted")
}

// startPublishedServer starts the original in place of ours and waits until it answers.
func (w *world) startPublishedServer() {
	w.t.Helper()
	program := filepath.Join(filepath.Dir(w.dstack), "original", "bin", "dstack")
	cmd := exec.Command(program, "server", "--host", "127.0.0.1", "--port", fmt.Sprint(w.port), "--token", w.token, "-y")
	cmd.Env = append(w.env(), "DSTACK_ENABLE_TELEMETRY=0", "HOME="+filepath.Join(w.dir, "server")) // it makes itself known to the client of its user
	cmd.Stdout, cmd.Stderr = w.serverLog, w.serverLog
	if err := cmd.Start(); err != nil {
		w.t.Fatalf("%v; run make e2e, which installs it", err)
	}
	w.server = cmd
	eventually(w.t, 2*time.Minute, "the published server answers", func() bool {
		resp, err := http.Get(w.url() + "/healthcheck")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}
