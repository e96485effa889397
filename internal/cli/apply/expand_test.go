package apply

import "testing"

func TestExpand(t *testing.T) {
	vars := map[string]string{"run.args": "--lr 1", "env.A": "x"}
	for in, want := range map[string]string{
		"train ${{ run.args }}":                "train --lr 1",
		"${{run.args}}${{ env.A }}":            "--lr 1x",
		"echo $$":                              "echo $",
		"$${{ env.A }}":                        "${{ env.A }}",
		"$HOME and ${x}":                       "$HOME and ${x}",
		"$x $${{ env.A }}":                     "$x $x",
		"${{ secrets.key }}":                   "${{ secrets.key }}",
		"${{ groups[0].nodes[1].IP_ADDRESS }}": "${{ groups[0].nodes[1].IP_ADDRESS }}",
		"ends with $":                          "ends with $",
	} {
		got, err := expand(in, vars, "secrets", "groups")
		if err != nil || got != want {
			t.Errorf("expand(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
	for in, want := range map[string]string{
		"${{ env.B }} ${{ x.y }}":      "Failed to interpolate due to missing vars: ['env.B', 'x.y']",
		"${{ env }}":                   "Illegal reference name: env",
		"${{ secrets.my-key }}":        "Illegal reference name: secrets.my-key",
		"a ${{ env.A":                  "No pattern closing: ${{ env.A",
		"${{ groups[0].nodes[a].IP }}": "Illegal reference name: groups[0].nodes[a].IP",
	} {
		if _, err := expand(in, vars, "secrets", "groups"); err == nil || err.Error() != want {
			t.Errorf("expand(%q) = %v, want %q", in, err, want)
		}
	}
}
