// Command notice prints NOTICE: what the licences of the modules in the kicker binary ask to be passed on with it.
//
//	go run ./.ci/notice.go [package]... > NOTICE
package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

const header = `kicker
Copyright 2026 the kicker authors

Licensed under the Apache License, Version 2.0: see LICENSE.

The kicker binary contains the Go standard library and the modules listed here. What follows is what their licences ask to be
passed on. Made by "make notice" from the licence files in the modules; not to be edited.
`

// linked is a package in the binary, as go list says it.
type linked struct {
	Dir    string
	Module *struct {
		Path, Version, Dir string
		Main               bool
	}
}

// text is one licence or notice file, and the modules that carry it.
type text struct {
	kind, body string
	carriers   []string
}

func main() {
	roots := os.Args[1:]
	if len(roots) == 0 {
		roots = []string{"./cmd/kicker"}
	}
	if err := run(os.Stdout, roots); err != nil {
		fmt.Fprintln(os.Stderr, "notice:", err)
		os.Exit(1)
	}
}

func run(out io.Writer, roots []string) error {
	packages, err := list(roots)
	if err != nil {
		return err
	}
	goroot, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return fmt.Errorf("go env GOROOT: %w", err)
	}
	files := map[string][]string{"Go standard library": {filepath.Join(strings.TrimSpace(string(goroot)), "LICENSE")}}
	for _, p := range packages {
		if p.Module == nil || p.Module.Main {
			continue
		}
		name := p.Module.Path + " " + p.Module.Version
		files[name] = append(files[name], licenceFiles(p.Dir, p.Module.Dir)...)
	}

	texts := map[string]*text{} // by body
	licences := map[string][]string{}
	for name, paths := range files {
		slices.Sort(paths)
		for _, path := range slices.Compact(paths) {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			body := strings.TrimSpace(strings.ReplaceAll(string(b), "\r\n", "\n"))
			kind := kindOf(filepath.Base(path), body)
			if kind == "" {
				return fmt.Errorf("%s: %s: a licence that this program does not know: read it, and teach kindOf", name, path)
			}
			if kind != "NOTICE" {
				licences[name] = append(licences[name], kind)
			}
			if texts[body] == nil {
				texts[body] = &text{kind: kind, body: body}
			}
			texts[body].carriers = append(texts[body].carriers, name)
		}
		if len(licences[name]) == 0 {
			return fmt.Errorf("%s: no licence file", name)
		}
	}
	return write(out, licences, texts)
}

// list is every package in the binary as it is built for Linux.
func list(roots []string) ([]linked, error) {
	cmd := exec.Command("go", append([]string{"list", "-deps", "-json=Dir,Module"}, roots...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	var packages []linked
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p linked
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return packages, nil
		} else if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		packages = append(packages, p)
	}
}

var licenceFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice)`)

// licenceFiles are those beside a package and in the directories above it, up to its module's: a module may carry code of others.
func licenceFiles(dir, module string) []string {
	var files []string
	for ; strings.HasPrefix(dir, module); dir = filepath.Dir(dir) {
		entries, _ := os.ReadDir(dir) // what is unreadable has no licence file, which is reported
		for _, e := range entries {
			if licenceFile.MatchString(e.Name()) && filepath.Ext(e.Name()) != ".go" && e.Type().IsRegular() {
				files = append(files, filepath.Join(dir, e.Name()))
			}
		}
	}
	return files
}

var kinds = []struct{ kind, words string }{
	{"MPL-2.0", "Mozilla Public License"},
	{"Apache-2.0", "Apache License"},
	{"BSD-3-Clause", "Neither the name"},
	{"BSD-2-Clause", "Redistribution and use in source and binary forms"},
	{"MIT", "Permission is hereby granted, free of charge"},
	{"ISC", "Permission to use, copy, modify, and/or distribute"},
}

// kindOf is the licence that a text is or names, several joined with "and"; empty if it is none that is known.
func kindOf(file, body string) string {
	if strings.HasPrefix(strings.ToUpper(file), "NOTICE") {
		return "NOTICE"
	}
	body = strings.Join(strings.Fields(body), " ")
	var found []string
	for _, k := range kinds {
		is2Clause := k.kind == "BSD-2-Clause" && slices.Contains(found, "BSD-3-Clause")
		if strings.Contains(body, k.words) && !is2Clause {
			found = append(found, k.kind)
		}
	}
	return strings.Join(found, " and ")
}

func write(out io.Writer, licences map[string][]string, texts map[string]*text) error {
	var b strings.Builder
	b.WriteString(header + "\n")
	for _, name := range sortedKeys(licences) {
		slices.Sort(licences[name])
		fmt.Fprintf(&b, "  %-74s %s\n", name, strings.Join(slices.Compact(licences[name]), ", "))
	}
	b.WriteString(`
Apache-2.0: the text is in LICENSE.
MPL-2.0: the source of each of these modules, unmodified, is at https://MODULE, at the version above; the licence is at
https://mozilla.org/MPL/2.0/.
`)
	var passedOn []*text
	for _, t := range texts {
		if t.kind != "Apache-2.0" && t.kind != "MPL-2.0" {
			slices.Sort(t.carriers)
			t.carriers = slices.Compact(t.carriers)
			passedOn = append(passedOn, t)
		}
	}
	slices.SortFunc(passedOn, func(x, y *text) int {
		return cmp.Or(cmp.Compare(x.carriers[0], y.carriers[0]), cmp.Compare(x.kind, y.kind), cmp.Compare(x.body, y.body))
	})
	rule := strings.Repeat("-", 78)
	for _, t := range passedOn {
		fmt.Fprintf(&b, "\n%s\n%s\n%s\n\n%s\n", rule, strings.Join(t.carriers, "\n"), rule, t.body)
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func sortedKeys(m map[string][]string) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
