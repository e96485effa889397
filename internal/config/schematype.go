package config

import "reflect"

// SchemaOfType describes the values of one of this package's types where they are part of
// other documents, as those of the API. What the schema refers to as "#/$defs/NAME" is added
// to defs.
func SchemaOfType(t reflect.Type, defs map[string]any) Schema {
	b := &schemaBuilder{defs: defs, texts: fieldDocs()}
	if t == reflect.TypeFor[AnyRun]() {
		return either(b.references([]reflect.Type{reflect.TypeFor[Task](), reflect.TypeFor[DevEnvironment](), reflect.TypeFor[Service]()})...)
	}
	return b.form(t, "")
}
