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
	key   string // such as roles[2].depends_on; empty if where is a flag or variable
	text  string
	line  int // 0 outside the file
}

func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, one := range p {
		parts := []string{one.where, one.key, one.text}
		lines[i] = strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), ": ")
	}
	return strings.Join(lines, "\n")
}

// cover reports whether p already has a problem with the value that q is about, or with one that contains it.
func (p Problems) cover(q problem) bool {
	return slices.ContainsFunc(p, func(r problem) bool { return r.where == q.where && strings.HasPrefix(q.key, r.key) })
}

// sources knows where each setting comes from.
type sources struct {
	file  string            // empty if there is none
	flags map[string]string // names by key
	env   map[string]string // names by key
	lines map[string]int    // in the file, by path such as roles[2].name
}

// of returns the source of the value at a path: a flag, a variable or a line in the file. Of a value that is missing in
// a list's entry it is the line of the entry. where is empty for a default.
func (src *sources) of(path string) (where string, line int) {
	key, _, _ := strings.Cut(path, "[")
	if flag, ok := src.flags[key]; ok {
		return "--" + flag, 0
	}
	if name, ok := src.env[key]; ok {
		return name, 0
	}
	for len(path) >= len(key) && path != "" {
		if line, ok := src.lines[path]; ok {
			return src.file + ":" + strconv.Itoa(line), line
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return "", 0
}

// has reports whether the value at a path is set, and not the default.
func (src *sources) has(path string) bool {
	where, _ := src.of(path)
	return where != ""
}

// problem returns a problem with the value at a path, located at the value's source.
func (src *sources) problem(path, format string, args ...any) problem {
	p := problem{key: path, text: fmt.Sprintf(format, args...)}
	if p.where, p.line = src.of(path); p.where != "" && p.line == 0 {
		p.key = "" // a flag or variable sets one key only
	}
	return p
}

var indexes = regexp.MustCompile(`\[\d+\]`)

// unknown returns the problem with a key that does not exist.
func (src *sources) unknown(path string) problem {
	parent, name := split(path)
	parent = indexes.ReplaceAllString(parent, "[]")
	var here, elsewhere []string
	walk("", configType, func(key string, _ reflect.Type) {
		switch at, last := split(key); {
		case at == parent:
			here = append(here, last)
		case last == name:
			elsewhere = append(elsewhere, key)
		}
	})
	switch meant := api.LikelyMeant(name, here); {
	case meant != "":
		return src.problem(path, "unknown key (did you mean %q?)", meant)
	case len(elsewhere) == 1:
		return src.problem(path, "unknown key (did you mean %s?)", elsewhere[0])
	}
	return src.problem(path, "unknown key: use one of %s", strings.Join(here, ", "))
}

// readFile returns the settings in the file's data and remembers the line of each. Without settings, the problems say
// why the file is unreadable; with settings, they are about single keys.
func (src *sources) readFile(data []byte) (map[string]any, Problems) {
	src.lines = map[string]int{}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, nil // the file is empty
	} else if err != nil {
		return nil, Problems{src.syntax(err)}
	}
	root := doc.Content[0]
	switch {
	case !errors.Is(dec.Decode(&second), io.EOF):
		return nil, Problems{{where: src.file, text: "text follows the first YAML document: keep one document"}}
	case root.Tag == "!!null":
		return nil, nil
	case root.Kind != yaml.MappingNode:
		return nil, Problems{{where: src.file, text: `want keys with values at the top level, such as "cluster: main"`}}
	}
	problems := src.scan(root, configType, "")
	settings := map[string]any{}
	if err := root.Decode(&settings); err != nil {
		if len(problems) == 0 { // else err repeats a duplicate key
			problems = Problems{src.syntax(err)}
		}
		return nil, problems
	}
	return settings, problems
}

// scan remembers the lines of everything below a node of type t, and finds unknown and duplicate keys.
func (src *sources) scan(n *yaml.Node, t reflect.Type, path string) (problems Problems) {
	switch {
	case n.Kind == yaml.SequenceNode && t.Kind() == reflect.Slice:
		for i, item := range n.Content {
			at := fmt.Sprintf("%s[%d]", path, i)
			src.lines[at] = item.Line
			problems = append(problems, src.scan(item, t.Elem(), at)...)
		}
	case n.Kind == yaml.MappingNode && t.Kind() == reflect.Struct:
		for pair := range slices.Chunk(n.Content, 2) {
			problems = append(problems, src.scanKey(pair[0], pair[1], t, path)...)
		}
	}
	return problems
}

func (src *sources) scanKey(key, value *yaml.Node, t reflect.Type, parent string) Problems {
	if key.Kind != yaml.ScalarNode || key.Tag == "!!merge" {
		return nil
	}
	path := join(parent, key.Value)
	if first, duplicate := src.lines[path]; duplicate {
		src.lines[path] = key.Line
		return Problems{src.problem(path, "already set on line %d: remove one of the two", first)}
	}
	src.lines[path] = key.Line
	known := fields(t)
	if i := slices.IndexFunc(known, func(f field) bool { return f.name == key.Value }); i >= 0 {
		return src.scan(value, known[i].typ, path)
	}
	return Problems{src.unknown(path)}
}

var yamlLine = regexp.MustCompile(`^line (\d+): `)

// syntax returns the problem that the YAML parser has with the file.
func (src *sources) syntax(err error) problem {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	text = strings.TrimPrefix(text, "unmarshal errors:\n  ")
	where := src.file
	if m := yamlLine.FindStringSubmatch(text); m != nil {
		where, text = where+":"+m[1], text[len(m[0]):]
	}
	return problem{where: where, text: "not valid YAML: " + text}
}
