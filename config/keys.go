package config

import (
	"reflect"
	"strings"
	"time"
)

var (
	configType   = reflect.TypeFor[Config]()
	durationType = reflect.TypeFor[time.Duration]()
)

// field is one key in a struct of settings.
type field struct {
	name  string
	index []int
	typ   reflect.Type
}

// fields returns the keys of a struct of settings in its order, including those of embedded structs.
func fields(t reflect.Type) []field {
	var all []field
	for _, f := range reflect.VisibleFields(t) {
		if name, _, _ := strings.Cut(f.Tag.Get("mapstructure"), ","); name != "" {
			all = append(all, field{name, f.Index, f.Type})
		}
	}
	return all
}

// walk visits every key of a struct of settings, such as log, log.level, roles and roles[].name.
func walk(prefix string, t reflect.Type, visit func(key string, t reflect.Type)) {
	for _, f := range fields(t) {
		key := join(prefix, f.name)
		visit(key, f.typ)
		switch {
		case f.typ.Kind() == reflect.Struct:
			walk(key, f.typ, visit)
		case isEntries(f.typ):
			walk(key+"[]", f.typ.Elem(), visit)
		}
	}
}

// isEntries reports whether t is a list of structs.
func isEntries(t reflect.Type) bool {
	return t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct
}

func join(prefix, name string) string {
	if prefix == "" {
		return name
	}
	return prefix + "." + name
}

// split splits a.b.c into a.b and c.
func split(key string) (parent, name string) {
	i := strings.LastIndexByte(key, '.')
	return key[:max(i, 0)], key[i+1:]
}

// envName is the environment variable that sets a key, or empty for a key that no variable can set.
func envName(key string, t reflect.Type) string {
	if t.Kind() == reflect.Struct || isEntries(t) || strings.Contains(key, "[]") {
		return ""
	}
	return "KICKER_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// describe names the values of a type in an error for the user.
func describe(t reflect.Type) string {
	switch {
	case t == durationType:
		return "a duration such as 10s or 5m"
	case t == reflect.TypeFor[time.Time]():
		return "a date"
	case isEntries(t):
		return "a list of entries with keys"
	}
	switch t.Kind() {
	case reflect.Slice:
		return "a list"
	case reflect.Struct, reflect.Map:
		return "keys with values"
	case reflect.String:
		return "text"
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "a whole number"
	case reflect.Float64:
		return "a fraction"
	}
	return "a number as large as this" // YAML's int64 and uint64
}
