package main

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"dstack/internal/config"
)

// acceleratorsPage lists the kinds of GPUs that requests can name, from their table.
func acceleratorsPage() string {
	var b strings.Builder
	b.WriteString("# Accelerators\n\n" + generated)
	b.WriteString("The kinds that `gpu` in `resources` and `--gpu` know. Their names may be written in any case. A kind that is not listed is " +
		"matched by its name, but has no vendor and no compute capability.\n\n" +
		"| Name | Vendor | Memory in GB | Architecture | Compute capability |\n|---|---|---|---|---|\n")
	for _, a := range config.Accelerators() {
		sizes := make([]string, len(a.Memory))
		for i, gib := range a.Memory {
			sizes[i] = strconv.Itoa(gib)
		}
		capability := ""
		if a.Capability != [2]int{} {
			capability = fmt.Sprintf("%d.%d", a.Capability[0], a.Capability[1])
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", a.Name, a.Vendor, strings.Join(sizes, ", "), a.Architecture, cmp.Or(capability, "-"))
	}
	b.WriteString("\n## TPUs\n\nGoogle's TPUs are named by version and size, `v5litepod-8`, and count as one GPU with the memory of all its chips. " +
		"The size counts cores, two to a chip, in the versions v2, v3, v4 and v5p, and chips in the others.\n\n" +
		"| Version | For example | Chips | Memory in GB |\n|---|---|---|---|\n")
	for _, name := range []string{"v2-8", "v3-8", "v4-8", "v5p-8", "v5litepod-8", "v6e-8"} {
		t, _ := config.ParseTPU(name)
		fmt.Fprintf(&b, "| %s | `%s` | %d | %d |\n", t.Version, name, t.Chips, t.MemoryGiB)
	}
	return b.String()
}
