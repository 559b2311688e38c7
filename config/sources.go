package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"kicker/controller/api"
)

// Problems is the error that lists everything wrong with the settings, one problem a line.
type Problems []problem

// problem is one thing that is wrong with the settings, and the remedy.
type problem struct {
	where string // the flag, the variable, or FILE:LINE
	line  int    // 0 outside the file
	key   string // such as roles[2].depends_on
	text  string
}

func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, one := range p {
		parts := []string{one.where, one.key, one.text}
		if one.where != "" && one.line == 0 {
			parts[1] = "" // a flag or variable sets one key only
		}
		lines[i] = strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), ": ")
	}
	return strings.Join(lines, "\n")
}

// reader reads and checks the settings, remembers where each comes from, and collects everything wrong with them.
type reader struct {
	options  Options
	config   Config
	lines    map[string]int    // in the file, by path such as roles[2].name
	typed    map[string]string // --FLAG or the variable, by key
	problems Problems
}

// of returns the source of the value at a path: a flag, a variable or a line in the file. Of a value that is missing in
// a list's entry it is the line of the entry. where is empty for a default.
func (r *reader) of(path string) (where string, line int) {
	key, _, _ := strings.Cut(path, "[")
	if where, ok := r.typed[key]; ok {
		return where, 0
	}
	for path != "" && len(path) >= len(key) {
		if line, ok := r.lines[path]; ok {
			return r.options.File + ":" + strconv.Itoa(line), line
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return "", 0
}

// wrong adds a problem with the value at a path, unless the value or one that contains it already has one.
func (r *reader) wrong(path, format string, args ...any) {
	where, line := r.of(path)
	for _, p := range r.problems {
		if p.where == where && strings.HasPrefix(path+".", p.key+".") {
			return
		}
	}
	r.problems = append(r.problems, problem{where, line, path, fmt.Sprintf(format, args...)})
}

var indexes = regexp.MustCompile(`\[\d+\]`)

// unknown adds the problem with a key that does not exist.
func (r *reader) unknown(path string) {
	parent, name := split(indexes.ReplaceAllString(path, "[]"))
	var here, elsewhere []string
	for _, s := range settings {
		switch at, last := split(s.key); {
		case at == parent:
			here = append(here, last)
		case last == name:
			elsewhere = append(elsewhere, s.key)
		}
	}
	switch meant := api.LikelyMeant(name, here); {
	case meant != "":
		r.wrong(path, "unknown key (did you mean %q?)", meant)
	case len(elsewhere) == 1:
		r.wrong(path, "unknown key (did you mean %s?)", elsewhere[0])
	default:
		r.wrong(path, "unknown key: use one of %s", strings.Join(here, ", "))
	}
}

// readFile returns the settings in the file's data and remembers the line of each.
func (r *reader) readFile(data []byte) (settings map[string]any, err error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, nil // the file is empty
	} else if err != nil {
		return nil, err
	}
	root := doc.Content[0]
	if !errors.Is(dec.Decode(&second), io.EOF) {
		return nil, errors.New("text follows the first YAML document: keep one document")
	}
	if root.Kind != yaml.MappingNode && root.Tag != "!!null" {
		return nil, errors.New(`want keys with values at the top level, such as "cluster: main"`)
	}
	r.scan(root, reflect.TypeFor[Config](), "")
	err = root.Decode(&settings)
	return settings, err
}

var yamlError = regexp.MustCompile(`^yaml: (?:unmarshal errors:\n  )?(?:line (\d+): )?`)

// unreadable returns the problem with the whole file, unless single keys have problems, such as duplicates.
func (r *reader) unreadable(err error) Problems {
	if len(r.problems) > 0 {
		return r.problems
	}
	where, text := r.options.File, err.Error()
	if m := yamlError.FindStringSubmatch(text); m != nil {
		where, text = strings.TrimSuffix(where+":"+m[1], ":"), "not valid YAML: "+text[len(m[0]):]
	}
	return Problems{{where: where, text: text}}
}

// scan remembers the lines of everything below a node of type t, and finds unknown and duplicate keys.
func (r *reader) scan(n *yaml.Node, t reflect.Type, path string) {
	switch {
	case n.Kind == yaml.SequenceNode && t.Kind() == reflect.Slice:
		for i, item := range n.Content {
			at := fmt.Sprintf("%s[%d]", path, i)
			r.lines[at] = item.Line
			r.scan(item, t.Elem(), at)
		}
	case n.Kind == yaml.MappingNode && t.Kind() == reflect.Struct:
		for pair := range slices.Chunk(n.Content, 2) {
			if pair[0].Kind == yaml.ScalarNode && pair[0].Tag != "!!merge" {
				r.scanKey(pair[0], pair[1], t, path)
			}
		}
	}
}

func (r *reader) scanKey(key, value *yaml.Node, t reflect.Type, parent string) {
	path, known := join(parent, key.Value), fields(t)
	i := slices.IndexFunc(known, func(f reflect.StructField) bool { return keyOf(f) == key.Value })
	first, duplicate := r.lines[path]
	r.lines[path] = key.Line
	switch {
	case duplicate:
		r.wrong(path, "already set on line %d: remove one of the two", first)
	case i < 0:
		r.unknown(path)
	default:
		r.scan(value, known[i].Type, path)
	}
}
