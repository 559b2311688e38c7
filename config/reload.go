package config

import "reflect"

// NeedRestart lists the keys in which two configurations differ and that a controller applies only when it starts.
// Keys that only agents or commands use do not count.
func NeedRestart(was, is Config) []string {
	return needRestart("", reflect.ValueOf(was), reflect.ValueOf(is))
}

func needRestart(prefix string, was, is reflect.Value) []string {
	var keys []string
	for _, f := range fields(was.Type()) {
		key := join(prefix, f.name)
		a, b := was.FieldByIndex(f.index), is.FieldByIndex(f.index)
		inLoop := len(f.index) > 1 // the field belongs to the embedded controller.Config
		switch {
		case reloadable(key, inLoop), reflect.DeepEqual(a.Interface(), b.Interface()):
		case f.typ.Kind() == reflect.Struct:
			keys = append(keys, needRestart(key, a, b)...)
		default:
			keys = append(keys, key)
		}
	}
	return keys
}

// reloadable reports whether a running controller applies a change of key, or does not use the key.
func reloadable(key string, inLoop bool) bool {
	switch key {
	case "cluster", "standby":
		return false
	case "agent", "api.url":
		return true
	}
	return inLoop
}
