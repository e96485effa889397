// Package override lets options replace parts of a configuration, and chooses the profile.
package override

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"dstack/internal/cli/program"
	"dstack/internal/config"
)

// Flags are the resources and profile parameters that the command line sets instead of the configuration.
type Flags struct {
	cpu, gpu, memory, disk string

	profile   string
	noProfile bool

	maxPrice      string // a number: text tells 0 from absence
	maxDuration   string
	backends      []string
	regions       []string
	instanceTypes []string
	fleets        []string

	reuse, dontDestroy bool
	idleDuration       string

	spot, onDemand, spotAuto bool
	spotPolicy               string

	retry, noRetry bool
	retryDuration  string
}

// AddResources adds the options that replace parts of `resources`.
func (o *Flags) AddResources(f *pflag.FlagSet) {
	f.StringVar(&o.cpu, "cpu", "", "CPUs, as `[ARCH:]COUNT`: 8, 4.., arm:16")
	f.StringVar(&o.gpu, "gpu", "", "GPUs, as `NAME:COUNT:MEMORY` in any order: A100:80GB, 24GB..:2")
	f.StringVar(&o.memory, "memory", "", "memory, as a `RANGE`: 16GB..64GB")
	f.StringVar(&o.disk, "disk", "", "disk, as a `RANGE`: 100GB..")
}

// AddProfile adds the options that replace profile parameters, and those that choose the profile.
func (o *Flags) AddProfile(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.profile, "profile", "", "the `NAME` of the profile, also $DSTACK_PROFILE")
	f.BoolVar(&o.noProfile, "no-profile", false, "use no profile, also $DSTACK_NO_PROFILE")
	f.StringVar(&o.maxPrice, "max-price", "", "the most that an instance may cost, in `DOLLARS` an hour")
	f.StringVar(&o.maxDuration, "max-duration", "", "how long the run may take: 2h, 1d, off")
	f.StringArrayVarP(&o.backends, "backend", "b", nil, "consider only this backend; repeatable")
	f.StringArrayVarP(&o.regions, "region", "r", nil, "consider only this region; repeatable")
	f.StringArrayVar(&o.instanceTypes, "instance-type", nil, "consider only this type of instance; repeatable")
	f.StringArrayVar(&o.fleets, "fleet", nil, "consider only this fleet, as NAME or PROJECT/NAME; repeatable")
	f.BoolVarP(&o.reuse, "reuse", "R", false, "use only instances that exist")
	f.BoolVar(&o.dontDestroy, "dont-destroy", false, "keep the instance when it is idle")
	f.StringVar(&o.idleDuration, "idle-duration", "", "how long to keep the instance when it is idle: 30m, off")
	f.BoolVar(&o.spot, "spot", false, "consider only spot instances")
	f.BoolVar(&o.onDemand, "on-demand", false, "consider only on-demand instances")
	f.BoolVar(&o.spotAuto, "spot-auto", false, "consider both spot and on-demand instances")
	f.StringVar(&o.spotPolicy, "spot-policy", "", "spot, on-demand or auto")
	f.BoolVar(&o.retry, "retry", false, "retry when there is no capacity, on errors and on interruptions")
	f.BoolVar(&o.noRetry, "no-retry", false, "do not retry")
	f.StringVar(&o.retryDuration, "retry-duration", "", "how long to retry: 2h")
	cmd.MarkFlagsMutuallyExclusive("profile", "no-profile")
	cmd.MarkFlagsMutuallyExclusive("reuse", "dont-destroy", "idle-duration")
	cmd.MarkFlagsMutuallyExclusive("spot", "on-demand", "spot-auto", "spot-policy")
	cmd.MarkFlagsMutuallyExclusive("retry", "no-retry", "retry-duration")
}

// Resources replaces what was given, each part as a whole.
func (o *Flags) Resources(r *config.Resources) error {
	given := map[string]any{}
	for name, v := range map[string]string{"cpu": o.cpu, "gpu": o.gpu, "memory": o.memory, "disk": o.disk} {
		if v != "" {
			given[name] = v
		}
	}
	var parsed config.Resources
	if err := decode(given, &parsed); err != nil {
		return err
	}
	if o.cpu != "" {
		r.CPU = parsed.CPU
	}
	if o.gpu != "" {
		r.GPU = parsed.GPU
	}
	if o.memory != "" {
		r.Memory = parsed.Memory
	}
	if o.disk != "" {
		r.Disk = parsed.Disk
	}
	return nil
}

// TakeBackends returns the backends that were named and forgets them, for who looks at them
// otherwise than a server does.
func (o *Flags) TakeBackends() []string {
	names := o.backends
	o.backends = nil
	return names
}

// Params replaces what was given in the parameters of a configuration.
func (o *Flags) Params(p *config.ProfileParams) error {
	given := map[string]any{}
	list := func(name string, v []string) {
		if len(v) > 0 {
			given[name] = v
		}
	}
	list("backends", o.backends)
	list("regions", o.regions)
	list("instance_types", o.instanceTypes)
	list("fleets", o.fleets)
	if o.maxPrice != "" {
		given["max_price"] = o.maxPrice
	}
	if o.maxDuration != "" {
		given["max_duration"] = duration(o.maxDuration)
	}
	switch {
	case o.reuse:
		given["creation_policy"] = "reuse"
	case o.dontDestroy:
		given["idle_duration"] = -1
	case o.idleDuration != "":
		given["idle_duration"] = duration(o.idleDuration)
	}
	if s := o.Spot(); s != "" {
		given["spot_policy"] = s
	}
	switch {
	case o.retry:
		given["retry"] = true
	case o.noRetry:
		given["retry"] = false
	case o.retryDuration != "":
		given["retry"] = map[string]any{"on_events": nil, "duration": duration(o.retryDuration)}
	}
	var parsed config.ProfileParams
	if err := decode(given, &parsed); err != nil {
		return err
	}
	*p = config.Merge(&config.Profile{ProfileParams: *p}, parsed).ProfileParams
	return nil
}

// Spot is the policy for spot instances that was given, "" if none.
func (o *Flags) Spot() string {
	switch {
	case o.spot:
		return "spot"
	case o.onDemand:
		return "on-demand"
	case o.spotAuto:
		return "auto"
	}
	return o.spotPolicy
}

// Profile is the name of the profile to use, "" for the default one; or none at all.
func (o *Flags) Profile(p *program.Program) (name string, none bool, err error) {
	if o.noProfile || o.profile != "" {
		return o.profile, o.noProfile, nil
	}
	none, err = p.Bool("DSTACK_NO_PROFILE")
	if err != nil || none {
		return "", none, err
	}
	return p.Env("DSTACK_PROFILE"), false, nil
}

// duration keeps plain numbers of seconds numbers.
func duration(s string) any {
	if n, err := strconv.Atoi(s); err == nil {
		return n
	}
	return s
}

func decode(given map[string]any, v any) error {
	data, err := json.Marshal(given)
	if err != nil {
		return fmt.Errorf("read options: %w", err)
	}
	if err := config.DecodeJSON(data, v); err != nil {
		return optionError(err)
	}
	return nil
}

// optionError names the option instead of the field, which may be a list.
func optionError(err error) error {
	options := map[string]string{"backends": "backend", "regions": "region", "instance_types": "instance-type", "fleets": "fleet", "retry": "retry-duration"}
	es, ok := errors.AsType[*config.Errors](err)
	if !ok {
		return err
	}
	var lines []string
	for _, p := range es.Problems {
		field := p.Path()
		if i := strings.IndexAny(field, ".["); i >= 0 {
			field = field[:i]
		}
		option := cmp.Or(options[field], strings.ReplaceAll(field, "_", "-"))
		lines = append(lines, fmt.Sprintf("--%s: %s", option, strings.TrimPrefix(p.Msg, "Value error, ")))
	}
	return errors.New(strings.Join(slices.Compact(lines), "\n"))
}
