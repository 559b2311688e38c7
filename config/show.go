package config

import (
	"cmp"
	"io"
	"reflect"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"kicker/controller/bus"
)

// Show writes the settings as a file that Load can read, each with its source in a comment. It hides the users and
// passwords in URLs.
func Show(o Options, w io.Writer) error {
	c, src, err := load(o)
	if err != nil {
		return err
	}
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(src.node("", reflect.ValueOf(c))); err != nil {
		return err
	}
	return enc.Close()
}

// node is the YAML of the value at a path.
func (src *sources) node(path string, v reflect.Value) *yaml.Node {
	if d, ok := v.Interface().(time.Duration); ok {
		return scalar(shortDuration(d))
	}
	switch v.Kind() {
	case reflect.String:
		return scalar(bus.Redacted(v.String()))
	case reflect.Slice:
		list := &yaml.Node{Kind: yaml.SequenceNode}
		if !isEntries(v.Type()) || v.Len() == 0 {
			list.Style = yaml.FlowStyle
		}
		for i := range v.Len() {
			list.Content = append(list.Content, src.node(path+"[]", v.Index(i)))
		}
		return list
	case reflect.Struct:
		return src.mapping(path, v)
	}
	return scalar(v.Interface())
}

func (src *sources) mapping(path string, v reflect.Value) *yaml.Node {
	m := &yaml.Node{Kind: yaml.MappingNode}
	inEntry := strings.Contains(path, "[]")
	for _, f := range fields(v.Type()) {
		value := v.FieldByIndex(f.index)
		if inEntry && value.IsZero() {
			continue // it follows from another setting
		}
		at := join(path, f.name)
		key, n := scalar(f.name), src.node(at, value)
		if !inEntry && f.typ.Kind() != reflect.Struct {
			commented := n
			if n.Kind == yaml.SequenceNode && n.Style != yaml.FlowStyle {
				commented = key
			}
			where, _ := src.of(at)
			commented.LineComment = cmp.Or(where, "default")
		}
		m.Content = append(m.Content, key, n)
	}
	return m
}

func scalar(v any) *yaml.Node {
	var n yaml.Node
	_ = n.Encode(v) // cannot fail for text, numbers and bools
	return &n
}

// shortDuration is d, exactly, in the form that a person writes: 1h, not 1h0m0s.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
