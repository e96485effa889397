package config

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// warnings lists what a valid document may not mean as it is written.
func warnings(file string, root *node) []Problem {
	w := linter{file: file, said: map[[2]int]bool{}}
	w.walk(root, nil)
	if env := root.get("env"); env != nil {
		for _, name := range env.keys {
			if !identifier(name) {
				w.say(env.keyPos[name], []any{"env", name}, "no shell can read a variable of this name")
			}
		}
	}
	return w.found
}

type linter struct {
	file  string
	said  map[[2]int]bool // places: what an alias stands for is said once
	found []Problem
}

// secretReference finds what would be replaced where secrets are.
var secretReference = regexp.MustCompile(`(^|[^$])\$\{\{\s*secrets\.`)

// takesSecrets says that references to secrets are replaced in a value.
func takesSecrets(loc []any) bool {
	return slices.ContainsFunc(loc, func(part any) bool { return part == "env" || part == "registry_auth" })
}

func (w *linter) walk(n *node, loc []any) {
	if n.kind == stringKind && secretReference.MatchString(n.text) && !takesSecrets(loc) {
		w.say([2]int{n.line, n.col}, loc, "secrets are put into env and registry_auth only, here the text stays as it is: put it into env and use the variable")
	}
	if n.isSexagesimal() {
		w.say([2]int{n.line, n.col}, loc, n.sexagesimalHint())
	}
	for _, key := range n.repeated {
		w.say(n.keyPos[key], at(loc, key), "the key is there more than once: the last one counts")
	}
	for i, item := range n.list {
		w.walk(item, at(loc, i))
	}
	for _, key := range n.keys {
		w.walk(n.values[key], at(loc, key))
	}
}

func (w *linter) say(pos [2]int, loc []any, msg string) {
	if w.said[pos] || len(w.found) >= maxProblems {
		return
	}
	w.said[pos] = true
	w.found = append(w.found, Problem{File: w.file, Line: pos[0], Col: pos[1], Loc: loc, Type: "warning", Msg: msg})
}

// isSexagesimal says that a number is written to the base of 60, as port mappings and
// user:group pairs may look.
func (n *node) isSexagesimal() bool {
	return (n.kind == intKind || n.kind == floatKind) && strings.Contains(n.text, ":")
}

func (n *node) sexagesimalHint() string {
	return fmt.Sprintf("YAML reads %s as the number %s: quote it to keep the text", n.text, n.scalarText())
}
