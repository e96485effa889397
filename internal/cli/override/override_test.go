package override

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"dstack/internal/cli/program"
	"dstack/internal/cli/term"
	"dstack/internal/config"
)

// parse reads options as a command does.
func parse(t *testing.T, args []string) (*Flags, error) {
	t.Helper()
	o := &Flags{}
	cmd := &cobra.Command{Use: "x", RunE: func(*cobra.Command, []string) error { return nil }, SilenceErrors: true, SilenceUsage: true}
	o.AddResources(cmd.Flags())
	o.AddProfile(cmd)
	cmd.SetArgs(args)
	return o, cmd.Execute()
}

func TestParams(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string // the parameters that are set, as JSON
		err  string
	}{
		{nil, `{"regions":["r1"],"spot_policy":"auto"}`, ""},
		{[]string{"-b", "aws", "--backend", "gcp", "-r", "r2"}, `{"backends":["aws","gcp"],"regions":["r2"],"spot_policy":"auto"}`, ""},
		{[]string{"--max-price", "1.5", "--max-duration", "2h", "--spot"}, `{"max_duration":7200,"max_price":1.5,"regions":["r1"],"spot_policy":"spot"}`, ""},
		{[]string{"--max-duration", "off", "--idle-duration", "off"}, `{"idle_duration":-1,"max_duration":"off","regions":["r1"],"spot_policy":"auto"}`, ""},
		{[]string{"--dont-destroy", "--on-demand"}, `{"idle_duration":-1,"regions":["r1"],"spot_policy":"on-demand"}`, ""},
		{[]string{"-R", "--no-retry"}, `{"creation_policy":"reuse","regions":["r1"],"retry":false,"spot_policy":"auto"}`, ""},
		{[]string{"--retry"}, `{"regions":["r1"],"retry":true,"spot_policy":"auto"}`, ""},
		{[]string{"--retry-duration", "90"}, `{"regions":["r1"],"retry":{"duration":90,"on_events":null},"spot_policy":"auto"}`, ""},
		{[]string{"--fleet", "f", "--fleet", "p/g"}, `{"fleets":[{"name":"f","project":null},{"name":"g","project":"p"}],"regions":["r1"],"spot_policy":"auto"}`, ""},
		{[]string{"--max-price", "0"}, "", "--max-price: Input should be greater than 0"},
		{[]string{"--max-price", "nan"}, "", "--max-price: Input should be a finite number"},
		{[]string{"-r", "x", "--fleet", "a/b/c"}, "", "--fleet: Invalid entity reference. Only `<name>` or `<project>/<name>` formats are allowed"},
		{[]string{"--spot-policy", "never"}, "", "--spot-policy: Input should be 'spot', 'on-demand' or 'auto'"},
		{[]string{"--retry-duration", "-5"}, "", "--retry-duration: retry.duration cannot be negative"},
		{[]string{"--spot", "--on-demand"}, "", "if any flags in the group [spot on-demand spot-auto spot-policy] are set none of the others can be; [on-demand spot] were all set"},
	} {
		auto := "auto"
		p := config.ProfileParams{Regions: []string{"r1"}, SpotPolicy: &auto}
		o, err := parse(t, tt.args)
		if err == nil {
			err = o.Params(&p)
		}
		if tt.err != "" || err != nil {
			if err == nil || err.Error() != tt.err {
				t.Errorf("%q: error\n%v\nwant\n%s", tt.args, err, tt.err)
			}
			continue
		}
		if diff := cmp.Diff(tt.want, set(t, p)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", tt.args, diff)
		}
	}
}

// Options that repeat are lists in a configuration.
func TestBackendOption(t *testing.T) {
	o, err := parse(t, []string{"-b", "foo"})
	if err == nil {
		err = o.Params(&config.ProfileParams{})
	}
	if err == nil || !strings.HasPrefix(err.Error(), "--backend: Input should be 'amddevcloud', 'aws'") {
		t.Errorf("error %v", err)
	}
}

// set is a value's JSON without nulls at its top.
func set(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	for k, v := range m {
		if v == nil {
			delete(m, k)
		}
	}
	data, err = json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestResources(t *testing.T) {
	o, err := parse(t, []string{"--cpu", "arm:4..", "--gpu", "A100:80GB:2", "--disk", "50GB"})
	if err != nil {
		t.Fatal(err)
	}
	r := config.DefaultResources()
	memory := r.Memory
	if err := o.Resources(&r); err != nil {
		t.Fatal(err)
	}
	if r.CPU.Arch == nil || *r.CPU.Arch != "arm" || r.CPU.Count.String() != "4.." || r.Disk.Size.String() != "50GB" || r.GPU.Count.String() != "2" || r.GPU.Memory.String() != "80GB" {
		t.Errorf("got %s", set(t, r))
	}
	if diff := cmp.Diff(memory, r.Memory); diff != "" {
		t.Errorf("what was not given changes (-want +got):\n%s", diff)
	}
	o, err = parse(t, []string{"--gpu", "a:b", "--memory", "8g"})
	if err != nil {
		t.Fatal(err)
	}
	err = o.Resources(&r)
	want := "--gpu: GPU spec name conflict: a:b\n--memory: Invalid memory size: 8g. Use a number of gigabytes or a unit: 512MB, 8GB, 1TB"
	if err == nil || err.Error() != want {
		t.Errorf("error\n%v\nwant\n%s", err, want)
	}
}

func TestProfile(t *testing.T) {
	for _, tt := range []struct {
		args []string
		env  map[string]string
		name string
		none bool
		err  string
	}{
		{nil, nil, "", false, ""},
		{[]string{"--profile", "a"}, map[string]string{"DSTACK_NO_PROFILE": "1"}, "a", false, ""},
		{[]string{"--no-profile"}, map[string]string{"DSTACK_PROFILE": "a"}, "", true, ""},
		{nil, map[string]string{"DSTACK_PROFILE": "a"}, "a", false, ""},
		{nil, map[string]string{"DSTACK_PROFILE": "a", "DSTACK_NO_PROFILE": "on"}, "", true, ""},
		{nil, map[string]string{"DSTACK_NO_PROFILE": "maybe"}, "", false, "Invalid bool value: DSTACK_NO_PROFILE=maybe"},
	} {
		o, err := parse(t, tt.args)
		if err != nil {
			t.Fatal(err)
		}
		io := term.New(nil, nil, nil)
		io.Getenv = func(name string) string { return tt.env[name] }
		name, none, err := o.Profile(&program.Program{IO: io})
		if tt.err != "" || err != nil {
			if err == nil || err.Error() != tt.err {
				t.Errorf("%q %v: error %v, want %s", tt.args, tt.env, err, tt.err)
			}
			continue
		}
		if name != tt.name || none != tt.none {
			t.Errorf("%q %v: got %q %v", tt.args, tt.env, name, none)
		}
	}
}
