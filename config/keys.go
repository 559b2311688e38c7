package config

import (
	"cmp"
	"reflect"
	"slices"
	"strings"
	"time"
)

// setting is one key of the configuration.
type setting struct {
	key   string // such as log, log.level, roles or roles[].name
	env   string // the variable that sets it; empty for a key with keys below it, and in an entry of a list
	index []int  // of its field in Config; in an entry, of its field there
}

// settings lists every key, each before those below it.
var settings = settingsOf("", reflect.TypeFor[Config](), nil)

func settingsOf(prefix string, t reflect.Type, index []int) (all []setting) {
	for _, f := range fields(t) {
		s := setting{key: join(prefix, keyOf(f)), index: slices.Concat(index, f.Index)}
		var below []setting
		switch {
		case f.Type.Kind() == reflect.Struct:
			below = settingsOf(s.key, f.Type, s.index)
		case isEntries(f.Type):
			below = settingsOf(s.key+"[]", f.Type.Elem(), nil)
		case !strings.Contains(prefix, "[]"):
			s.env = "KICKER_" + strings.ToUpper(strings.ReplaceAll(s.key, ".", "_"))
		}
		all = append(append(all, s), below...)
	}
	return all
}

// fields returns the fields of a struct of settings, with those of embedded structs in their place.
func fields(t reflect.Type) []reflect.StructField {
	return slices.DeleteFunc(reflect.VisibleFields(t), func(f reflect.StructField) bool { return f.Anonymous })
}

func keyOf(f reflect.StructField) string { return f.Tag.Get("mapstructure") }

// isEntries reports whether t is a list of structs.
func isEntries(t reflect.Type) bool {
	return t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct
}

func join(prefix, name string) string { return strings.TrimPrefix(prefix+"."+name, ".") }

// split splits a.b.c into a.b and c.
func split(key string) (parent, name string) {
	i := strings.LastIndexByte(key, '.')
	return key[:max(i, 0)], key[i+1:]
}

// NeedRestart lists the keys in which two configurations differ and that a controller applies only when it starts.
// Keys that only agents or commands use do not count.
func NeedRestart(was, is Config) (keys []string) {
	reloaded := was
	reloaded.Config, reloaded.Agent, reloaded.API.URL = is.Config, is.Agent, is.API.URL
	reloaded.Cluster, reloaded.Standby = was.Cluster, was.Standby
	a, b := reflect.ValueOf(reloaded), reflect.ValueOf(is)
	for _, s := range settings {
		if s.env != "" && !reflect.DeepEqual(a.FieldByIndex(s.index).Interface(), b.FieldByIndex(s.index).Interface()) {
			keys = append(keys, s.key)
		}
	}
	return keys
}

var durationType = reflect.TypeFor[time.Duration]()

var kindNames = map[reflect.Kind]string{
	reflect.Slice: "a list", reflect.Struct: "keys with values", reflect.Map: "keys with values",
	reflect.String: "text", reflect.Bool: "true or false", reflect.Int: "a whole number", reflect.Float64: "a fraction",
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
	return cmp.Or(kindNames[t.Kind()], "a number as large as this") // YAML's int64 and uint64
}
