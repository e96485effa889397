package config

import (
	"errors"
	"strings"
)

// Check applies the rules beyond the grammar that need no server: a file that breaks one of
// them can be read, but would be refused when it is applied. All problems are returned at
// once as *Errors.
func (a *Any) Check() error {
	d := &decoder{file: a.file}
	loc := []any{a.Type()}
	switch {
	case a.Run != nil:
		checkName(d, loc, a.Run.Common().Name)
		a.Run.checkTexts(d, a.root, loc)
	case a.Fleet != nil:
		d.problems = append(a.Fleet.Refused(), a.Fleet.RefusedAddresses()...)
		for i := range d.problems {
			d.problems[i].File = a.file
		}
	case a.Volume != nil:
		checkName(d, loc, a.Volume.Name)
	case a.Gateway != nil:
		checkName(d, loc, a.Gateway.Name)
	}
	return d.finish(a.places())
}

// places is the document with groups of replicas where the configuration has them.
func (a *Any) places() *node {
	replicas := a.root.get("replicas")
	if a.Run == nil || a.Run.Service == nil || replicas == nil || replicas.kind != listKind {
		return a.root
	}
	n := a.root.clone()
	n.set("groups", replicas)
	return n
}

func checkName(d *decoder, loc []any, name *string) {
	if name == nil {
		return
	}
	if err := CheckName(*name); err != nil {
		d.refuse(at(loc, "name"), err)
	}
}

// refuse reports a rule that is checked after reading: the place is found by the path.
func (d *decoder) refuse(loc []any, err error) { d.add(nil, loc, "value_error", "%v", err) }

// checkTexts looks at paths in the container and at references in texts. Whether there is
// such a variable or secret is known only when the run is applied.
func (a *AnyRun) checkTexts(d *decoder, root *node, loc []any) {
	c := a.Common()
	if w := c.WorkingDir; w != nil && !absolute(*w) {
		d.refuse(at(loc, "working_dir"), errors.New("working_dir must be absolute"))
	}
	references := func(loc []any, text string, values map[string]map[string]string, deferred ...string) {
		if _, err := Interpolate(text, values, deferred...); err != nil {
			d.refuse(loc, err)
		}
	}
	for _, name := range sortedKeys(c.Env) {
		references(envLoc(root, loc, name), c.Env[name].Value, nil, "secrets")
	}
	args := map[string]map[string]string{"run": {"args": ""}}
	for _, commands := range a.Commands() {
		for i, command := range commands.Lines {
			references(append(append(loc[:1:1], commands.Loc...), i), command, args, "secrets", "groups")
		}
	}
	for _, t := range a.EnvTexts() {
		references(append(loc[:1:1], t.Loc...), *t.Text, nil, "env", "secrets")
	}
}

// absolute says that a path in a container does not depend on where a job begins.
func absolute(path string) bool { return strings.HasPrefix(path, "/") || strings.HasPrefix(path, "~") }

// envLoc is the path of a variable, which a file may list as NAME=value.
func envLoc(root *node, loc []any, name string) []any {
	loc = at(loc, "env")
	if env := root.get("env"); env != nil && env.kind == listKind {
		for i, item := range env.list {
			if strings.HasPrefix(item.text, name+"=") {
				return at(loc, i)
			}
		}
	}
	return at(loc, name)
}

// Commands are the commands at one place of a run configuration.
type Commands struct {
	Loc   []any // path below the configuration
	Lines []string
}

// Commands lists all commands of a task or service, which can be changed in place.
func (a *AnyRun) Commands() []Commands {
	var all []Commands
	add := func(lines []string, loc ...any) { all = append(all, Commands{append(loc, "commands"), lines}) }
	switch {
	case a.Task != nil:
		add(a.Task.Commands)
		for i, g := range a.Task.Groups {
			add(g.Commands, "groups", i)
		}
	case a.Service != nil:
		add(a.Service.Commands)
		for i, g := range a.Service.Groups {
			add(g.Commands, "groups", i)
		}
	}
	return all
}

// EnvText is a text in which ${{ env.X }} is replaced.
type EnvText struct {
	Loc  []any // path below the configuration
	Text *string
}

// EnvTexts lists the texts of a run configuration in which ${{ env.X }} is replaced.
func (a *AnyRun) EnvTexts() []EnvText {
	var texts []EnvText
	add := func(text *string, loc ...any) {
		if text != nil {
			texts = append(texts, EnvText{loc, text})
		}
	}
	if r := a.Common().RegistryAuth; r != nil {
		add(&r.Username, "registry_auth", "username")
		add(&r.Password, "registry_auth", "password")
	}
	if a.Service == nil {
		return texts
	}
	for i := range a.Service.Probes {
		p := &a.Service.Probes[i]
		add(p.URL, "probes", i, "url")
		add(p.Body, "probes", i, "body")
		for j := range p.Headers {
			add(&p.Headers[j].Value, "probes", i, "headers", j, "value")
		}
	}
	return texts
}
