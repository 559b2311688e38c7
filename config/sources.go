package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"kicker/controller/api"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3" // the parser that viper uses: the lines are those of what viper reads
)

// Problem is one thing that is wrong with the settings, and what to do about it.
type Problem struct {
	Where string // the flag, the variable, or FILE:LINE
	Key   string // as roles[2].depends_on; empty if Where says it
	Text  string

	line int
}

func (p Problem) String() string {
	parts := slices.DeleteFunc([]string{p.Where, p.Key, p.Text}, func(s string) bool { return s == "" })
	return strings.Join(parts, ": ")
}

// Problems are all that is wrong with the settings.
type Problems []Problem

func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, problem := range p {
		lines[i] = problem.String()
	}
	return strings.Join(lines, "\n")
}

// unread reports whether q is about a value that could not be read, which p says already.
func (p Problems) unread(q Problem) bool {
	return slices.ContainsFunc(p, func(p Problem) bool { return p.Where == q.Where && strings.HasPrefix(q.Key, p.Key) })
}

// sources know where each setting comes from.
type sources struct {
	file  string            // empty: there is none
	flags map[string]string // by key
	env   map[string]string // by key
	lines map[string]int    // by path in the file, as roles[2].name
}

// of says where the value at a path comes from; what is missing in an entry of a list is placed at the entry. where is empty for a
// default.
func (src *sources) of(path string) (where string, line int) {
	key, _, _ := strings.Cut(path, "[")
	if flag, ok := src.flags[key]; ok {
		return "--" + flag, 0
	}
	if name, ok := src.env[key]; ok {
		return name, 0
	}
	for ; path != "" && len(path) >= len(key); path = path[:max(strings.LastIndexAny(path, ".["), 0)] {
		if line, ok := src.lines[path]; ok {
			return src.file + ":" + strconv.Itoa(line), line
		}
	}
	return "", 0
}

// has reports whether the value at a path is not the default.
func (src *sources) has(path string) bool {
	where, _ := src.of(path)
	return where != ""
}

// problem is a problem with the value at a path, placed where that value comes from.
func (src *sources) problem(path, format string, args ...any) Problem {
	p := Problem{Key: path, Text: fmt.Sprintf(format, args...)}
	if p.Where, p.line = src.of(path); p.Where != "" && p.line == 0 {
		p.Key = "" // a flag or a variable is one key
	}
	return p
}

var indexes = regexp.MustCompile(`\[\d+\]`)

// unknown is a problem with a key that there is not.
func (src *sources) unknown(path string) Problem {
	parent, name := split(path)
	parent = indexes.ReplaceAllString(parent, "[]")
	var here, elsewhere []string
	walk(configType, func(key string, _ reflect.Type) {
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
	return src.problem(path, "unknown key: there are %s", strings.Join(here, ", "))
}

// scan finds where everything is in the file, and what is wrong with its keys. If it is not readable the rest can't be told.
func (src *sources) scan(data []byte) (problems Problems, readable bool) {
	src.lines = map[string]int{}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, true // nothing in it
	} else if err != nil {
		return Problems{src.syntax(err)}, false
	}
	root := doc.Content[0]
	switch {
	case !errors.Is(dec.Decode(&second), io.EOF):
		return Problems{{Where: src.file, Text: "more than one document, or something after its end: only the first would be read"}}, false
	case root.Tag == "!!null":
		return nil, true
	case root.Kind != yaml.MappingNode:
		return Problems{{Where: src.file, Text: "want lines of KEY: VALUE at the top"}}, false
	}
	readable = true
	src.scanMapping(root, configType, "", func(p Problem, twice bool) {
		problems = append(problems, p)
		readable = readable && !twice
	})
	return problems, readable
}

func (src *sources) scanMapping(n *yaml.Node, t reflect.Type, at string, found func(p Problem, twice bool)) {
	here := map[string]int{}
	known := fields(t)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode || key.Tag == "!!merge" {
			continue
		}
		path := join(at, key.Value)
		if before, twice := here[key.Value]; twice {
			where := src.file + ":" + strconv.Itoa(key.Line)
			found(Problem{where, path, fmt.Sprintf("line %d has it already: remove one of them", before), key.Line}, true)
			continue
		}
		here[key.Value] = key.Line
		src.lines[path] = key.Line
		if i := slices.IndexFunc(known, func(f field) bool { return f.name == key.Value }); i >= 0 {
			src.scanValue(value, known[i].typ, path, found)
		} else {
			found(src.unknown(path), false)
		}
	}
}

func (src *sources) scanValue(n *yaml.Node, t reflect.Type, path string, found func(p Problem, twice bool)) {
	switch {
	case n.Kind == yaml.MappingNode && t.Kind() == reflect.Struct:
		src.scanMapping(n, t, path, found)
	case n.Kind == yaml.SequenceNode && t.Kind() == reflect.Slice:
		for i, item := range n.Content {
			at := fmt.Sprintf("%s[%d]", path, i)
			src.lines[at] = item.Line
			src.scanValue(item, t.Elem(), at, found)
		}
	}
}

var yamlLine = regexp.MustCompile(`^(?:yaml: )?line (\d+): `)

// syntax is a problem that the parser has with the file.
func (src *sources) syntax(err error) Problem {
	text := err.Error()
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		text = inner.Error() // without what viper says around it
		if yamlLine.MatchString(text) {
			break
		}
	}
	text = strings.TrimPrefix(text, "yaml: ")
	text = strings.TrimPrefix(text, "unmarshal errors:\n  ")
	p := Problem{Where: src.file, Text: text}
	if m := yamlLine.FindStringSubmatch(text); m != nil {
		p.Where += ":" + m[1]
		p.Text = text[len(m[0]):]
	}
	return p
}
