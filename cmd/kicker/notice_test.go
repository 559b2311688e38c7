package main

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

func TestNoticeNamesEveryLinkedModule(t *testing.T) {
	notice, err := os.ReadFile("../../NOTICE")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "list", "-deps", "-f",
		"{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}}{{end}}{{end}}", ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64") // as it is built
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	modules := strings.Split(strings.TrimSpace(string(out)), "\n")
	slices.Sort(modules)
	for _, module := range slices.Compact(modules) {
		if !strings.Contains(string(notice), "\n  "+module+" ") {
			t.Errorf("NOTICE lacks %s, which is linked into kicker: run make notice", module)
		}
	}
}
