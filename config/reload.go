package config

import "reflect"

// Parse reads the settings as Load would if data were in its file, which is called o.File.
func Parse(data []byte, o Options) (Config, error) {
	src := &sources{file: o.File, flags: map[string]string{}, env: map[string]string{}}
	return src.parse(data, o)
}

// NeedRestart is the keys in which two configurations differ and that a controller takes only when it starts. What is the agents', or
// the commands', is none of its business.
func NeedRestart(was, is Config) []string {
	return needRestart("", reflect.ValueOf(was), reflect.ValueOf(is))
}

func needRestart(prefix string, was, is reflect.Value) []string {
	var keys []string
	for _, f := range fields(was.Type()) {
		key := join(prefix, f.name)
		a, b := was.FieldByIndex(f.index), is.FieldByIndex(f.index)
		switch {
		case takenAtRunTime(key, len(f.index) > 1), reflect.DeepEqual(a.Interface(), b.Interface()):
		case f.typ.Kind() == reflect.Struct:
			keys = append(keys, needRestart(key, a, b)...)
		default:
			keys = append(keys, key)
		}
	}
	return keys
}

// takenAtRunTime reports whether a running controller takes a key, or has no use for it. ofController: it is one of controller.Config.
func takenAtRunTime(key string, ofController bool) bool {
	switch key {
	case "cluster", "standby":
		return false
	case "agent", "api.url":
		return true
	}
	return ofController
}
