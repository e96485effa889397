package config

import "testing"

// What the recorded lines do not hold.
func TestInterpolate(t *testing.T) {
	values := map[string]map[string]string{"run": {"args": "--lr 1"}, "env": {"A": "x"}}
	for _, tt := range []struct{ in, want, err string }{
		{"${{ run.args }}${{env.A}}", "--lr 1x", ""},
		{"${{ groups[0].nodes[1].IP_ADDRESS }}", "${{ groups[0].nodes[1].IP_ADDRESS }}", ""},
		{"${{ groups[0].replicas[1].IP_ADDRESS }}", "${{ groups[0].replicas[1].IP_ADDRESS }}", ""},
		{"${{ groups[0].nodes[a].IP }}", "", "Illegal reference name: groups[0].nodes[a].IP"},
		{"${{ secrets.my-key }}", "${{ secrets.my-key }}", ""},
		{"${{ run.my-key }}", "", "Illegal reference name: run.my-key"},
		{"${{ env.B }} ${{ x.y }}", "", "Failed to interpolate due to missing vars: ['env.B', 'x.y']"},
	} {
		got, err := Interpolate(tt.in, values, "secrets", "groups")
		switch {
		case err != nil && err.Error() != tt.err, err == nil && tt.err != "":
			t.Errorf("%s: error %v, want %q", tt.in, err, tt.err)
		case got != tt.want:
			t.Errorf("%s: got %q, want %q", tt.in, got, tt.want)
		}
	}
}
