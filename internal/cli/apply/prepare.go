package apply

import (
	"errors"
	"fmt"
	"strings"

	"dstack/internal/config"
)

// prepare applies options, the caller's environment and arguments to the configuration of a run.
func (o Options) prepare(run *config.AnyRun) error {
	c := run.Common()
	if o.Name != "" {
		c.Name = &o.Name
	}
	if err := o.Override.Resources(&c.Resources); err != nil {
		return err
	}
	if err := o.Override.Params(&c.ProfileParams); err != nil {
		return err
	}
	if err := o.env(c.Env); err != nil {
		return err
	}
	if d := c.WorkingDir; d != nil && !absolute(*d) {
		return errors.New("working_dir must be absolute")
	}
	if err := o.ports(run); err != nil {
		return err
	}
	return o.interpolate(run)
}

// absolute says that a path in a container does not depend on where a job begins.
func absolute(path string) bool { return strings.HasPrefix(path, "/") || strings.HasPrefix(path, "~") }

// env adds the variables of the command line, and takes those without value from the caller's environment.
func (o Options) env(env config.Env) error {
	for _, item := range o.Vars {
		name, v, err := config.ParseEnvItem(item)
		if err != nil {
			return fmt.Errorf("-e %w", err)
		}
		env[name] = v
	}
	for _, name := range env.Unresolved() {
		from := env[name].From
		value, ok := o.LookupEnv(from)
		if !ok {
			return fmt.Errorf("Environment variable %s is not set", from)
		}
		env[name] = config.EnvValue{Value: value}
	}
	return nil
}

// interpolate replaces run.args in commands, and env in the places that may refer to it.
func (o Options) interpolate(run *config.AnyRun) error {
	args := map[string]map[string]string{"run": {"args": config.ShellJoin(o.Args)}}
	for _, commands := range commandsOf(run) {
		for i := range commands {
			s, err := config.Interpolate(commands[i], args, "secrets", "groups")
			if err != nil {
				return fmt.Errorf("commands[%d]: %w", i, err)
			}
			commands[i] = s
		}
	}
	env := map[string]map[string]string{"env": run.Common().Env.Values()}
	for name, s := range envTexts(run) {
		v, err := config.Interpolate(*s, env, "secrets")
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		*s = v
	}
	return nil
}

func commandsOf(run *config.AnyRun) [][]string {
	var all [][]string
	switch {
	case run.Task != nil:
		all = append(all, run.Task.Commands)
		for _, g := range run.Task.Groups {
			all = append(all, g.Commands)
		}
	case run.Service != nil:
		all = append(all, run.Service.Commands)
		for _, g := range run.Service.Groups {
			all = append(all, g.Commands)
		}
	}
	return all
}

// envTexts are the texts in which ${{ env.X }} is replaced, by their path.
func envTexts(run *config.AnyRun) map[string]*string {
	texts := map[string]*string{}
	if a := run.Common().RegistryAuth; a != nil {
		texts["registry_auth.username"], texts["registry_auth.password"] = &a.Username, &a.Password
	}
	if run.Service == nil {
		return texts
	}
	for i := range run.Service.Probes {
		p := &run.Service.Probes[i]
		if p.URL != nil {
			texts[fmt.Sprintf("probes[%d].url", i)] = p.URL
		}
		if p.Body != nil {
			texts[fmt.Sprintf("probes[%d].body", i)] = p.Body
		}
		for j := range p.Headers {
			texts[fmt.Sprintf("probes[%d].headers[%d].value", i, j)] = &p.Headers[j].Value
		}
	}
	return texts
}
