package config

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"kicker/inventory"
)

// items is a YAML list of n different texts, each with its number after the prefix.
func items(n int, prefix string) string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("%s%d", prefix, i)
	}
	return "[" + strings.Join(list, ", ") + "]"
}

// actions is a YAML list of n actions that depend on needs each.
func actions(n, needs int) string {
	var list strings.Builder
	for i := range n {
		fmt.Fprintf(&list, "  - {name: a%d, command: [x], depends_on: %s}\n", i, items(needs, "r"))
	}
	return list.String()
}

func TestLimitsOfMessagesHoldInTheConfiguration(t *testing.T) {
	x := func(n int) string { return strings.Repeat("x", n) }
	agent := "agent:\n  actions:\n"
	for _, c := range []struct {
		name string
		file func(n int) string // with n of what is limited
		most int
		key  string
		want string // in the problem with one more
	}{
		{"depends_on", func(n int) string { return "agent: {actions: [a=b], depends_on: [a=" + x(n-2) + "]}" }, 256,
			"agent.depends_on[0]", "must be 1 to 256 bytes"},
		{"depends_on of an action",
			func(n int) string { return agent + "  - {name: a, command: [b], depends_on: [a=" + x(n-2) + "]}" }, 256,
			"agent.actions[0].depends_on[0]", "must be 1 to 256 bytes"},
		{"depends_on of a role", func(n int) string { return "roles: [{name: lb, depends_on: [a=" + x(n-2) + "]}]" }, 256,
			"roles[0].depends_on[0]", "must be 1 to 256 bytes"},
		{"depends_on with quotes when it is canonical", // in a message each quote takes four bytes
			func(n int) string {
				return `roles: [{name: lb, depends_on: ["aaa='` + strings.Repeat(`\"`, (n-5)/4) + `'"]}]`
			}, 256,
			"roles[0].depends_on[0]", "too long by 4 bytes"},
		{"depends_on with same=", func(n int) string { return "roles: [{name: lb, depends_on: [web same=" + x(n-9) + "]}]" },
			256, "roles[0].depends_on[0]", "must be 1 to 256 bytes"},
		{"many depends_on", func(n int) string { return "agent: {actions: [a=b], depends_on: " + items(n, "r") + "}" }, 64,
			"agent.depends_on", "65 items, at most 64 are allowed"},
		{"many depends_on of an action", func(n int) string { return agent + actions(1, n) }, 64,
			"agent.actions[0].depends_on", "65 items, at most 64 are allowed"},
		{"many depends_on of all actions",
			func(n int) string {
				return agent + actions(8, 63) + "  - {name: z, command: [x], depends_on: " +
					items(n-8*63, "r") + "}"
			}, 512,
			"agent.actions", "they depend on 513 roles and selectors together, at most 512 are allowed"},
		{"depends_on that actions inherit",
			func(n int) string {
				return "agent:\n  depends_on: " + items(64, "r") + "\n  actions:\n" +
					inherit(7) + actions(1, 10) + "  - {name: z, command: [x], depends_on: " +
					items(n-7*64-10, "r") + "}"
			}, 512,
			"agent.actions", "they depend on 513 roles and selectors together, at most 512 are allowed"},
		{"many actions", func(n int) string { return agent + actions(n, 1) }, 24,
			"agent.actions", "25 actions, at most 24 are allowed"},
		{"many depends_on of all roles",
			func(n int) string {
				return "roles:\n- {name: lb, depends_on: " + items(40, "r") + "}\n- {name: cache, depends_on: " +
					items(n-40, "s") + "}"
			}, 64,
			"roles", "the depends_on of all roles have 65 items together, at most 64 are allowed"},
		{"selector", func(n int) string { return "roles: [{name: web, selector: a=" + x(n-2) + "}]" }, 1024,
			"roles[0].selector", "1025 bytes, at most 1024 are allowed"},
		{"member_facts", func(n int) string { return "roles: [{name: web, member_facts: " + items(n, "f") + "}]" }, 32,
			"roles[0].member_facts", "33 facts, at most 32 are allowed"},
		{"member fact", func(n int) string { return "roles: [{name: web, member_facts: [" + x(n) + "]}]" }, 128,
			"roles[0].member_facts[0]", "129 bytes, at most 128 are allowed"},
		{"path of a fact", func(n int) string { return "agent: {facts: [" + x(n) + "=1]}" }, 128,
			"agent.facts[0]", "129 bytes, at most 128 are allowed"},
		{"text of a fact", func(n int) string { return "agent: {facts: [a=" + x(n) + "]}" }, inventory.MaxMemberText,
			"agent.facts[0]", "fact a: text of 1025 bytes, at most 1024 are allowed"},
		{"instance", func(n int) string { return "agent: {instance: " + x(n) + "}" }, inventory.MaxInstance,
			"agent.instance", "254 bytes, at most 253 are allowed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := Load(inFile(t, c.file(c.most))); err != nil {
				t.Errorf("%d are rejected: %v", c.most, err)
			}
			_, err := Load(inFile(t, c.file(c.most+1)))
			var problems Problems
			if !errors.As(err, &problems) || len(problems) != 1 || problems[0].key != c.key || problems[0].line == 0 ||
				!strings.Contains(problems[0].text, c.want) {
				t.Errorf("%d give\n%v\nwant one problem with %s: %s", c.most+1, err, c.key, c.want)
			}
		})
	}
}

// inherit is n actions without a depends_on of their own.
func inherit(n int) string {
	var list strings.Builder
	for i := range n {
		fmt.Fprintf(&list, "  - {name: b%d, command: [x]}\n", i)
	}
	return list.String()
}

func TestMoreFactsThanOneMessageTakesAreRejected(t *testing.T) {
	var list strings.Builder
	for i := range 1100 {
		fmt.Fprintf(&list, "  - f%d=%s\n", i, strings.Repeat("x", 1000))
	}
	_, err := Load(inFile(t, "agent:\n  facts:\n"+list.String()))
	if err == nil || !strings.Contains(err.Error(), "kicker.yaml:2: agent.facts: ") ||
		!strings.Contains(err.Error(), "leave out facts that nothing uses") {
		t.Errorf("1.1 MB of facts: %v", err)
	}
}

// Files are UTF-8, but flags and variables have any bytes.
func TestFlagsThatAreNotUTF8AreRejected(t *testing.T) {
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	o := inFile(t, "")
	o.Flags = map[string]*pflag.Flag{}
	args := []string{"--action=a=b"}
	for flag, key := range map[string]string{
		"fact": "agent.facts", "depends-on": "agent.depends_on", "role": "agent.roles", "instance": "agent.instance",
		"action": "agent.actions", "name": "agent.name", "cluster": "cluster",
	} {
		if flag == "instance" || flag == "name" || flag == "cluster" {
			flags.String(flag, "", "")
		} else {
			flags.StringArray(flag, nil, "")
		}
		o.Flags[key] = flags.Lookup(flag)
		value := "M\xfcnchen"
		switch flag {
		case "action":
			continue
		case "fact":
			args = append(args, "--fact=s\xfcd=1")
			value = "site=M\xfcnchen"
		case "depends-on":
			args = append(args, "--depends-on=web same=s\xfcd")
			value = "site='M\xfcnchen'"
		}
		args = append(args, "--"+flag+"="+value)
	}
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	_, err := Load(o)
	var problems Problems
	if !errors.As(err, &problems) {
		t.Fatalf("Load = %v", err)
	}
	rejected := map[string]bool{}
	for _, p := range problems {
		rejected[p.key] = true
	}
	for _, key := range []string{"agent.facts[0]", "agent.facts[1]", "agent.depends_on[0]", "agent.depends_on[1]",
		"agent.roles[0]", "agent.instance", "agent.name", "cluster"} {
		if !rejected[key] {
			t.Errorf("%s is accepted:\n%v", key, err)
		}
	}
}
