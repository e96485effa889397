package config

import (
	"reflect"
	"strconv"
	"strings"
)

// Forms of scalars: what YAML 1.1 makes of unquoted words is accepted where the parser does.
// Patterns are those of every dialect: no flags, no look-around.
func word() map[string]any { return kinds("string", "number") }
func whole(tag string) map[string]any {
	return either(bounded(kinds("integer"), tag), lenient(matching(`^\s*[+-]?[0-9_]+(\.0*)?\s*$`)))
}
func number(tag string) map[string]any {
	return either(bounded(kinds("number"), tag), lenient(matching(`^\s*[+-]?[0-9_.]+([eE][+-]?[0-9]+)?\s*$`)))
}

// lenient marks a form that is accepted, but that pages about the format need not show.
func lenient(form map[string]any) map[string]any {
	form["$comment"] = "another spelling"
	return form
}

// bounded adds the bounds of a field's tag to the form of its value.
func bounded(form map[string]any, tag string) map[string]any {
	for limit, keyword := range map[string]string{"gt": "exclusiveMinimum", "min": "minimum", "max": "maximum"} {
		if m, ok := option(tag, limit); ok {
			form[keyword] = m
		}
	}
	return form
}
func truth() map[string]any {
	return either(kinds("boolean"), lenient(map[string]any{"enum": []any{0, 1}}),
		lenient(matching(caseless("0", "off", "f", "false", "n", "no", "1", "on", "t", "true", "y", "yes"))))
}
func either(forms ...any) map[string]any   { return map[string]any{"anyOf": forms} }
func kinds(names ...string) map[string]any { return map[string]any{"type": names} }
func words(list ...string) map[string]any  { return map[string]any{"enum": list} }
func matching(pattern string) map[string]any {
	return map[string]any{"type": "string", "pattern": pattern}
}
func orNull(form any) map[string]any { return either(form, kinds("null")) }
func listOf(item any) map[string]any { return map[string]any{"type": "array", "items": item} }
func only(props map[string]any) map[string]any {
	return map[string]any{"type": "object", "additionalProperties": false, "properties": props}
}

// bounds is the object form of a range.
func bounds(of any) map[string]any {
	return only(map[string]any{"min": orNull(of), "max": orNull(of)})
}

// caseless is a pattern for words in any case.
func caseless(list ...string) string {
	var b strings.Builder
	for i, w := range list {
		if i > 0 {
			b.WriteByte('|')
		}
		for _, c := range w {
			if lower, upper := strings.ToLower(string(c)), strings.ToUpper(string(c)); lower != upper {
				b.WriteString("[" + lower + upper + "]")
			} else {
				b.WriteRune(c)
			}
		}
	}
	return "^(" + b.String() + ")$"
}

// countPattern is a range of whole numbers as text.
const countPattern = `^\s*\+?[0-9_]*(\.0+)? *(\.\. *[0-9_]*(\.0+)?)?\s*$`

// scalarForms are the short forms of types that may be written in other ways than as an
// object.
func scalarForms(t reflect.Type) []any {
	const size = ` *[0-9._eE+ ]+ *([tTgGmM][bB])? *`
	memory := []any{bounded(kinds("number"), "min=0"), matching(`^\s*` + size + `\s*$`)}
	count := bounded(kinds("integer"), "min=0")
	duration := []any{kinds("integer", "number"), matching(`^([0-9]+ *[smhdw]\n?|\s*[+-]?[0-9_]+\s*)$`), kinds("boolean")}
	switch t {
	case reflect.TypeFor[Duration]():
		return duration
	case reflect.TypeFor[OffDuration](), reflect.TypeFor[IdleDuration](), reflect.TypeFor[InactivityDuration]():
		return append(duration, words("off"))
	case reflect.TypeFor[Memory]():
		return memory
	case reflect.TypeFor[MemoryRange]():
		return append(memory, matching(`^(`+size+`)?\.\.(`+size+`)?$`), bounds(either(memory...)))
	case reflect.TypeFor[Disk]():
		return append(memory, matching(`^(`+size+`)?\.\.(`+size+`)?$`))
	case reflect.TypeFor[IntRange]():
		return []any{count, matching(countPattern), bounds(whole("min=0"))}
	case reflect.TypeFor[CPU](): // an object may be that of the count
		return []any{count, matching(`^[^:]+(:[^:]+)?$`), bounds(whole("min=0"))}
	case reflect.TypeFor[GPU]():
		return []any{count, matching(`^[^:]+(:[^:]+)*$`)}
	case reflect.TypeFor[PortMapping]():
		return []any{bounded(kinds("integer"), "min=1,max=65535"), matching(`^(\s*\+?[0-9]+(\.0*)?\s*|([0-9]+|\*):[0-9]+)$`)}
	case reflect.TypeFor[FleetNodes]():
		n := orNull(whole("min=0"))
		return []any{count, matching(countPattern), only(map[string]any{"min": n, "target": n, "max": n})}
	case reflect.TypeFor[Blocks]():
		return []any{whole("min=1"), words("auto")}
	case reflect.TypeFor[HTTPS]():
		return []any{truth(), words("auto")}
	case reflect.TypeFor[RetryOption]():
		return []any{truth()}
	case reflect.TypeFor[PythonVersion]():
		var floats []float64 // of which 3.1 stands for 3.10
		for _, v := range pythonVersions() {
			f, _ := strconv.ParseFloat(v, 64)
			floats = append(floats, f)
		}
		return []any{words(pythonVersions()...), lenient(map[string]any{"enum": floats})}
	case reflect.TypeFor[UnixUser]():
		return []any{bounded(kinds("number"), "min=0"), matching(`^[^:]+(:[^:]+)?$`)}
	case reflect.TypeFor[Shell]():
		return []any{matching(`^(sh|bash|/.*)$`)}
	case reflect.TypeFor[SSHHost]():
		return []any{word()}
	case reflect.TypeFor[EntityRef]():
		return []any{kinds("number"), matching(`^[^/]+(/[^/]+)?$`)}
	case reflect.TypeFor[GatewayRef]():
		return []any{kinds("boolean", "number"), matching(`^[^/]+(/[^/]+)?$`)}
	case reflect.TypeFor[Mount]():
		return []any{matching(`^[^:]*:/[^:]*$`)}
	case reflect.TypeFor[InstanceSelector]():
		return []any{map[string]any{"type": "string", "minLength": 1}}
	case reflect.TypeFor[Model](), reflect.TypeFor[FileMapping](), reflect.TypeFor[Repo]():
		return []any{kinds("string")}
	case reflect.TypeFor[nameOrNames]():
		return []any{word(), listOf(word())}
	case reflect.TypeFor[Tags]():
		rules := tagRules()
		return []any{map[string]any{"type": []string{"object", "null"}, "propertyNames": matching(rules[0].String()), "additionalProperties": matching(rules[1].String())}}
	case reflect.TypeFor[Env]():
		ref := only(map[string]any{"key": word()})
		ref["required"] = []string{"key"}
		return []any{listOf(matching(envItem().String())), map[string]any{"type": "object", "additionalProperties": either(word(), ref)}}
	}
	return nil
}

// objectForms are the objects that a type may be written as: itself, unless it has others.
func objectForms(t reflect.Type) []reflect.Type {
	switch t {
	case reflect.TypeFor[Mount]():
		return []reflect.Type{reflect.TypeFor[volumeMount](), reflect.TypeFor[instanceMount]()}
	case reflect.TypeFor[InstanceSelector]():
		return []reflect.Type{reflect.TypeFor[selectorForm]()}
	case reflect.TypeFor[Model]():
		return []reflect.Type{reflect.TypeFor[openAIModel](), reflect.TypeFor[tgiModel]()}
	case reflect.TypeFor[RetryOption]():
		return []reflect.Type{reflect.TypeFor[retryObject]()}
	case reflect.TypeFor[Router]():
		return []reflect.Type{reflect.TypeFor[routerForm]()}
	case reflect.TypeFor[RateKey]():
		return []reflect.Type{reflect.TypeFor[addressKey](), reflect.TypeFor[headerKey]()}
	case reflect.TypeFor[Certificate]():
		return []reflect.Type{reflect.TypeFor[letsEncrypt](), reflect.TypeFor[acmCertificate](), reflect.TypeFor[gcpCertificate]()}
	case reflect.TypeFor[GatewayRef]():
		return []reflect.Type{reflect.TypeFor[EntityRef]()}
	case reflect.TypeFor[Volume]():
		return []reflect.Type{reflect.TypeFor[volumeZoned](), reflect.TypeFor[volumeRunpod](), reflect.TypeFor[volumeKubernetes](), reflect.TypeFor[volumeUnsized]()}
	case reflect.TypeFor[MemoryRange](), reflect.TypeFor[IntRange](), reflect.TypeFor[FleetNodes](), reflect.TypeFor[Blocks](), reflect.TypeFor[HTTPS](),
		reflect.TypeFor[OffDuration](), reflect.TypeFor[nameOrNames]():
		return nil
	}
	if t.Kind() == reflect.Struct {
		return []reflect.Type{t}
	}
	return nil
}

// more adds what the fields of a type do not say.
func (b *schemaBuilder) more(t reflect.Type, props map[string]any) {
	constant := func(key string, values ...string) { props[key] = words(values...) }
	switch t {
	case reflect.TypeFor[Task]():
		constant("type", TypeTask)
	case reflect.TypeFor[DevEnvironment]():
		constant("type", TypeDevEnvironment)
	case reflect.TypeFor[Service](): // groups may come as a list of replicas
		constant("type", TypeService)
		props["replicas"] = either(props["replicas"], listOf(b.reference(reflect.TypeFor[ReplicaGroup]())))
	case reflect.TypeFor[NodeGroup]():
		props["name"] = orNull(either(matching(groupNamePattern), kinds("number")))
	case reflect.TypeFor[RateLimit]():
		props["prefix"] = matching(ratePatterns()[0].String())
	case reflect.TypeFor[headerKey]():
		props["header"] = matching(ratePatterns()[1].String())
	case reflect.TypeFor[ReplicaGroup]():
		props["name"] = orNull(either(matching(groupNamePattern), kinds("number")))
		props["count"] = b.form(reflect.TypeFor[IntRange](), "")
	case reflect.TypeFor[Fleet]():
		constant("type", TypeFleet)
	case reflect.TypeFor[Gateway]():
		constant("type", TypeGateway)
	case reflect.TypeFor[volumeZoned]():
		constant("type", TypeVolume)
		constant("backend", "aws", "gcp")
	case reflect.TypeFor[volumeRunpod](): // a zone is accepted and dropped
		constant("type", TypeVolume)
		constant("backend", "runpod")
		props["availability_zone"] = orNull(word())
	case reflect.TypeFor[volumeKubernetes]():
		constant("type", TypeVolume)
		constant("backend", "kubernetes")
	case reflect.TypeFor[volumeUnsized]():
		constant("type", TypeVolume)
		constant("backend", "daytona", "lium")
	case reflect.TypeFor[CPU]():
		props["arch"] = either(words("x86", "arm"), lenient(matching(caseless("x86", "arm"))), kinds("null"))
	case reflect.TypeFor[GPU](): // one name, and a version in one piece
		props["vendor"] = either(words("nvidia", "amd", "google", "intel", "tenstorrent"), lenient(matching(caseless("nvidia", "amd", "google", "tpu", "intel", "tenstorrent", "tt"))), kinds("null"))
		props["name"] = either(props["name"], kinds("string", "number", "null"))
		props["compute_capability"] = either(props["compute_capability"], kinds("string", "number", "null"))
	case reflect.TypeFor[Schedule]():
		props["cron"] = either(kinds("string"), props["cron"])
	}
}
