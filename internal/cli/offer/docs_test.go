package offer

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What the page about offers shows is what the program prints.
func TestPageShowsWhatIsPrinted(t *testing.T) {
	page, err := os.ReadFile("../../../docs/offers.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(page), "```console\n$ dstack offer ")[1:]
	if len(blocks) < 2 {
		t.Errorf("the page has %d transcripts", len(blocks))
	}
	for _, block := range blocks {
		command, text, _ := strings.Cut(block, "\n")
		text, _, _ = strings.Cut(text, "```")
		out, said, err := offerCommand(t, map[string]string{"COLUMNS": "120"}, strings.Fields(command)...)
		if err != nil || said != "" {
			t.Errorf("%s: %v, %s", command, err, said)
		}
		if diff := cmp.Diff(text, strings.TrimRight(trimmed(out), "\n")+"\n"); diff != "" {
			t.Errorf("dstack offer %s (-docs/offers.md +printed):\n%s", command, diff)
		}
	}
}
