package config

import (
	"fmt"
	"reflect"
	"strings"
	"time"
)

var (
	configType   = reflect.TypeFor[Config]()
	durationType = reflect.TypeFor[time.Duration]()
)

// field is one key of a struct of settings, those of embedded structs included.
type field struct {
	name  string
	index []int
	typ   reflect.Type
}

// fields are the keys of a struct of settings, in its order.
func fields(t reflect.Type) []field {
	var all []field
	for _, f := range reflect.VisibleFields(t) {
		if name, _, _ := strings.Cut(f.Tag.Get("mapstructure"), ","); name != "" {
			all = append(all, field{name, f.Index, f.Type})
		}
	}
	return all
}

// walk visits every key of a struct of settings and below: log, then log.level; roles, then roles[].name.
func walk(t reflect.Type, visit func(key string, t reflect.Type)) { walkBelow("", t, visit) }

func walkBelow(prefix string, t reflect.Type, visit func(key string, t reflect.Type)) {
	for _, f := range fields(t) {
		key := join(prefix, f.name)
		visit(key, f.typ)
		switch {
		case f.typ.Kind() == reflect.Struct:
			walkBelow(key, f.typ, visit)
		case isEntries(f.typ):
			walkBelow(key+"[]", f.typ.Elem(), visit)
		}
	}
}

// isEntries reports whether t is a list of entries that have keys of their own.
func isEntries(t reflect.Type) bool {
	return t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct
}

func join(prefix, name string) string {
	if prefix == "" {
		return name
	}
	return prefix + "." + name
}

// split takes a.b.c apart into a.b and c.
func split(key string) (parent, name string) {
	i := strings.LastIndexByte(key, '.')
	return key[:max(i, 0)], key[i+1:]
}

// envName is the variable that sets the key, or empty: what has keys below it is not set as a whole.
func envName(key string, t reflect.Type) string {
	if t.Kind() == reflect.Struct || isEntries(t) || strings.Contains(key, "[]") {
		return ""
	}
	return "KICKER_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// describe says to a person what values of t are.
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
		return "a text"
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "a whole number"
	case reflect.Float64:
		return "a fraction"
	case reflect.Int64, reflect.Uint64:
		return "so large a number"
	}
	return fmt.Sprintf("a %s", t)
}
