package apply

import (
	"fmt"

	"dstack/internal/config"
)

// prepare applies options, the caller's environment and arguments to the configuration of a run.
func (o Options) prepare(run *config.AnyRun) error {
	c := run.Common()
	if err := o.Override.Resources(&c.Resources); err != nil {
		return err
	}
	if err := o.Override.Params(&c.ProfileParams); err != nil {
		return err
	}
	if err := o.env(c.Env); err != nil {
		return err
	}
	if err := o.ports(run); err != nil {
		return err
	}
	return o.interpolate(run)
}

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
	var wrong []config.Problem
	args := map[string]map[string]string{"run": {"args": config.ShellJoin(o.Args)}}
	for _, commands := range run.Commands() {
		for i, line := range commands.Lines {
			v, err := config.Interpolate(line, args, "secrets", "groups")
			if err != nil {
				wrong = append(wrong, config.Problem{Loc: append(commands.Loc, i), Msg: err.Error()})
			}
			commands.Lines[i] = v
		}
	}
	env := map[string]map[string]string{"env": run.Common().Env.Values()}
	for _, t := range run.EnvTexts() {
		v, err := config.Interpolate(*t.Text, env, "secrets")
		if err != nil {
			wrong = append(wrong, config.Problem{Loc: t.Loc, Msg: err.Error()})
		}
		*t.Text = v
	}
	if wrong != nil {
		return &config.Errors{Problems: wrong}
	}
	return nil
}
