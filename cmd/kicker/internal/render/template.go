package render

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/template"

	"kicker/inventory/query"
	"kicker/kick"
)

// Template is what the template in a file makes of a members file.
func Template(file, members string) ([]byte, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("template: %w", err)
	}
	data, err := readMembers(members)
	if err != nil {
		return nil, err
	}
	t, err := template.New(filepath.Base(file)).Option("missingkey=error").Funcs(functions).Parse(string(text))
	if err != nil {
		return nil, plain(err)
	}
	var out bytes.Buffer
	if err := t.Execute(&out, data); err != nil {
		roles, _ := data["roles"].(map[string]any)
		names := strings.Join(slices.Sorted(maps.Keys(roles)), ", ")
		return nil, fmt.Errorf("%w (the roles in %s are: %s)", plain(err), members, names)
	}
	return out.Bytes(), nil
}

// What text/template puts around the place and the cause of an error.
var (
	around  = regexp.MustCompile(`^template: (\S+): executing "[^"]*" at (<.*?>): (?:error calling \w+: )?`)
	missing = regexp.MustCompile(`map has no entry for key ("(?:[^"\\]|\\.)*")`)
)

// plain is an error of text/template as FILE:LINE:COLUMN, expression and cause.
func plain(err error) error {
	text := around.ReplaceAllString(err.Error(), "$1: $2: ")
	return errors.New(missing.ReplaceAllString(strings.TrimPrefix(text, "template: "), "there is no $1"))
}

func readMembers(file string) (map[string]any, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("members: %w", err)
	}
	var data map[string]any
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber() // a number is written as it was, and compares with eq as the text that it is
	if err := dec.Decode(&data); err != nil {
		return nil, fmt.Errorf("members: %s is not JSON: %w", file, err)
	}
	if v, _ := data["v"].(json.Number); v.String() != fmt.Sprint(kick.Version) {
		is := cmp.Or(v.String(), "none")
		return nil, fmt.Errorf("members: %s has version %s, want %d. Is it a members file?", file, is, kick.Version)
	}
	roles, _ := data["roles"].(map[string]any)
	for role, members := range roles {
		if members == nil {
			roles[role] = []any{} // no members are a list too
		}
	}
	return data, nil
}

// functions are what a template has beside Go's own ones. index is stricter than Go's.
var functions = template.FuncMap{
	"index": index,
	"get": func(object map[string]any, path string, otherwise any) any {
		if v, ok := query.Lookup(object, path); ok {
			return v
		}
		return otherwise
	},
	"env": func(name string, otherwise ...string) (string, error) {
		if v, ok := os.LookupEnv(name); ok {
			return v, nil
		}
		if len(otherwise) > 0 {
			return otherwise[0], nil
		}
		return "", fmt.Errorf("%s is not set in the environment", name)
	},
	"default": func(otherwise, v any) any {
		if truth, _ := template.IsTrue(v); !truth {
			return otherwise
		}
		return v
	},
	"join": func(sep string, list []any) string {
		words := make([]string, len(list))
		for i, item := range list {
			words[i] = fmt.Sprint(item)
		}
		return strings.Join(words, sep)
	},
	"json": func(v any) (string, error) {
		var b strings.Builder
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		err := enc.Encode(v)
		return strings.TrimSuffix(b.String(), "\n"), err
	},
}

// index is the item at keys. A missing one is an error, where Go's index would make an empty backend of a typo.
func index(v any, keys ...any) (any, error) {
	for _, key := range keys {
		switch container := v.(type) {
		case map[string]any:
			name, _ := key.(string)
			inner, ok := container[name]
			if !ok {
				return nil, fmt.Errorf("there is no %q", fmt.Sprint(key))
			}
			v = inner
		case []any:
			i, ok := key.(int)
			if !ok || i < 0 || i >= len(container) {
				return nil, fmt.Errorf("a list of %d has no item %v", len(container), key)
			}
			v = container[i]
		default:
			return nil, errors.New("only a list or an object has items")
		}
	}
	return v, nil
}
