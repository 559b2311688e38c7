package config

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

func TestMistakesNamePlaceKeyAndRemedy(t *testing.T) {
	for _, tc := range []struct{ name, file, want string }{
		{"typo of a declared role", "roles:\n- name: web\n- name: lb\n  depends_on: [wbe]\n",
			`kicker.yaml:4: roles[1].depends_on[0]: role "wbe" is unknown (did you mean "web"?): ` +
				`correct it, or declare it under roles`},
		{"typo of the agent's own role", "agent:\n  roles: [haproxy]\n  depends_on: [haprxoy]\n  actions: [a=b]\n",
			`kicker.yaml:3: agent.depends_on[0]: role "haprxoy" is unknown (did you mean "haproxy"?): ` +
				`correct it, or declare it under roles`},
		{"typo of a declared role before same=", "roles:\n- name: web\n- {name: lb, depends_on: [wbe same=site]}\n",
			`kicker.yaml:3: roles[1].depends_on[0]: role "wbe" is unknown (did you mean "web"?)`},

		{"unknown key", "\nsettle_mim: 5s\n", `kicker.yaml:2: settle_mim: unknown key (did you mean "settle_min"?)`},
		{"unknown key in an entry", "roles:\n- name: web\n  selektor: a=b\n",
			`kicker.yaml:3: roles[0].selektor: unknown key (did you mean "selector"?)`},
		{"unknown key in capitals", "FROB: 1\n", `kicker.yaml:1: FROB: unknown key: use one of cluster, roles`},
		{"key in capitals", "Cluster: a\n", `kicker.yaml:1: Cluster: unknown key (did you mean "cluster"?)`},
		{"key in the wrong place", "server: [a]\n", `kicker.yaml:1: server: unknown key (did you mean agent.server?)`},
		{"key like no other", "log:\n  colour: red\n",
			`kicker.yaml:2: log.colour: unknown key: use one of level, format`},
		{"unknown key without a value", "frob:\nlog:\n",
			`kicker.yaml:1: frob: unknown key: use one of cluster, roles, gone_after, settle, settle_min, ` +
				`settle_max, ` +
				`backoff, in_flight, limits, run_at_most, mode, standby, guard, state_dir, token_file, insecure, log, bus, api, agent`},
		{"unknown key through an alias", "roles:\n- &w {name: web}\nlog: *w\n",
			`log.name: unknown key: use one of level, format`},
		{"unknown key with an anchor", "x: &x\n", `kicker.yaml:1: x: unknown key: use one of cluster, roles`},
		{"duplicate key", "settle: 1s\nlog: {}\nsettle: 2s\n",
			`kicker.yaml:3: settle: already set on line 1: remove one of the two`},

		{"not YAML", "settle: 1s\na: b: c\n",
			`kicker.yaml:2: not valid YAML: mapping values are not allowed in this context`},
		{"no keys", "- a\n", `kicker.yaml: want keys with values at the top level, such as "cluster: main"`},
		{"two documents", "settle: 1s\n---\nsettle: 2s\n",
			`kicker.yaml: text follows the first YAML document: keep one document`},

		{"duration without unit", "settle: 5\n", `kicker.yaml:1: settle: 5 has no unit: write 5s or 5ms`},
		{"duration with an unknown unit", "settle: 5 seconds\n",
			`kicker.yaml:1: settle: "5 seconds" is not a duration: ` +
				`write a number with its unit, such as 500ms, 10s or 5m`},
		{"list for a duration", "settle: [5s]\n",
			`kicker.yaml:1: settle: want a duration such as 10s or 5m, not a list`},
		{"number for text", "agent:\n  actions:\n  - name: a\n    command: [chmod, 0644]\n",
			`kicker.yaml:4: agent.actions[0].command[1]: want text, not a whole number: put it in quotes`},
		{"bool for text", "agent:\n  name: true\n",
			`kicker.yaml:2: agent.name: want text, not true or false: put it in quotes`},
		{"text for a bool", "insecure: perhaps\n", `kicker.yaml:1: insecure: want true or false, not "perhaps"`},
		{"fraction for a count", "agent: {ready: {rise: 1.5}}\n",
			`kicker.yaml:1: agent.ready.rise: want a whole number, not a fraction`},
		{"text for entries", "roles: web\n", `kicker.yaml:1: roles: want a list of entries with keys, not "web"`},
		{"text for an entry", "roles: [web]\n", `kicker.yaml:1: roles[0]: want keys with values, not "web"`},
		{"entry for a list of entries", "roles: {name: web}\n",
			`kicker.yaml:1: roles: want a list of entries with keys, not keys with values`},
		{"number for a group", "backoff: 5\n", `kicker.yaml:1: backoff: want keys with values, not a whole number`},

		{"gone_after too short", "gone_after: 3s\n",
			`kicker.yaml:1: gone_after: 3s is less than 3.5 heartbeats: ` +
				`use 3.5s or more, so that two lost heartbeats remove no node`},
		{"gone_after of a role too short", "roles: [{name: web, gone_after: 1s}]\n",
			`kicker.yaml:1: roles[0].gone_after: 1s is less than 3.5 heartbeats: ` +
				`use 3.5s or more, so that two lost heartbeats remove no node`},
		{"settle_min above the default settle_max", "settle_min: 2m\n",
			`kicker.yaml:1: settle_min: settle_min 2m is more than settle_max 1m: ` +
				`lower settle_min or raise settle_max`},
		{"settle_max below the default settle_min", "settle_max: 1s\n",
			`kicker.yaml:1: settle_max: settle_min 5s is more than settle_max 1s: ` +
				`lower settle_min or raise settle_max`},
		{"negative settle", "settle: -1s\n", `kicker.yaml:1: settle: -1s is too low: use 0s or more`},
		{"no backoff", "backoff: {initial: 0}\n", `kicker.yaml:1: backoff.initial: 0s is too low: use 100ms or more`},
		{"backoff.initial above backoff.max", "backoff: {initial: 1h}\n",
			`kicker.yaml:1: backoff.initial: backoff.initial 1h is more than backoff.max 10m: ` +
				`lower backoff.initial or raise backoff.max`},
		{"in_flight too low", "in_flight: 0\n", `kicker.yaml:1: in_flight: 0 is too low: use 1 or more`},
		{"limit too low", "limits: [{action: puppet, in_flight: 0}]\n",
			`kicker.yaml:1: limits[0].in_flight: 0 is too low: use 1 or more`},
		{"limit without in_flight", "limits:\n- action: puppet\n",
			`kicker.yaml:2: limits[0].in_flight: 0 is too low: use 1 or more`},
		{"limit of no action", "limits: [{in_flight: 2}]\n", `kicker.yaml:1: limits[0].action: `},
		{"limit of an invalid action", "limits: [{action: a b, in_flight: 2}]\n", `kicker.yaml:1: limits[0].action: `},
		{"two limits of an action", "limits:\n- {action: puppet, in_flight: 2}\n- {action: puppet, in_flight: 3}\n",
			`kicker.yaml:3: limits[1].action: action "puppet" is already limited by limits[0]: remove one of the two`},
		{"limits as keys", "limits: {puppet: 16}\n",
			`kicker.yaml:1: limits: want a list of entries with keys, not keys with values`},
		{"run_at_most too low", "run_at_most: 10s\n", `kicker.yaml:1: run_at_most: 10s is too low: use 1m or more`},
		{"unknown guard", "guard: off\n", `kicker.yaml:1: guard: "off" is not one of on, shadow`},
		{"unknown mode", "mode: dry-run\n", `kicker.yaml:1: mode: "dry-run" is not one of act, observe`},
		{"standby with the embedded bus", "standby: true\n",
			`kicker.yaml:1: standby: the embedded NATS server stops with its controller: ` +
				`set bus.url to another NATS`},
		{"invalid cluster name", "cluster: _x\n",
			`kicker.yaml:1: cluster: name "_x": names that start with _ are reserved`},
		{"cluster name with a dot", "cluster: a.b\n",
			`kicker.yaml:1: cluster: name "a.b": the name of a cluster has no dots, use - instead`},

		{"role declared twice", "roles:\n- name: web\n- name: web\n",
			`kicker.yaml:3: roles[1].name: role "web" is already declared by roles[0]: merge the two entries`},
		{"role without name", "roles:\n- selector: a=b\n",
			`kicker.yaml:2: roles[0].name: role "": must have 1 to 128 characters`},
		{"invalid role name", "roles:\n- name: a b\n",
			`kicker.yaml:2: roles[0].name: role "a b": ' ' is not allowed, only letters, digits and _ . : -`},
		{"invalid selector", "roles:\n- name: web\n  selector: role\n",
			`kicker.yaml:3: roles[0].selector: selector "role", at its end: `},
		{"min_members too low", "roles: [{name: web, min_members: -1}]\n",
			`kicker.yaml:1: roles[0].min_members: -1 is too low: use 0 or more`},
		{"invalid budget", "roles: [{name: web, budget: some}]\n",
			`kicker.yaml:1: roles[0].budget: budget "some": want a number of runs from 1, or a percentage such as 10%`},
		{"budget too low", "roles: [{name: web, budget: 0}]\n", `kicker.yaml:1: roles[0].budget: budget "0": want`},
		{"budget too high", "roles: [{name: web, budget: 101%}]\n",
			`kicker.yaml:1: roles[0].budget: budget "101%": want`},
		{"unknown mode of a role", "roles:\n- {name: web, mode: off}\n",
			`kicker.yaml:2: roles[0].mode: "off" is not one of act, observe`},
		{"action without depends_on", "roles:\n- {name: web, action: a}\n",
			`kicker.yaml:2: roles[0].action: action "a" has no depends_on: add depends_on, or remove action`},

		{"unstable member fact", "roles:\n- name: web\n  member_facts: [port, system_uptime.seconds]\n",
			`kicker.yaml:3: roles[0].member_facts[1]: ` +
				`fact "system_uptime.seconds" changes all the time and would kick its dependents without end: ` +
				`remove it`},
		{"unstable fact in a selector", "roles:\n- name: web\n  selector: role=web,uptime!=0\n",
			`kicker.yaml:3: roles[0].selector: ` +
				`fact "uptime" changes all the time and would kick its dependents without end: remove it`},
		{"unstable fact in depends_on", "roles:\n- {name: lb, depends_on: ['load.1m=0']}\n",
			`kicker.yaml:2: roles[0].depends_on[0]: fact "load.1m" changes all the time`},
		{"unstable fact after same=", "roles:\n- {name: lb, depends_on: ['web same=uptime']}\n",
			`kicker.yaml:2: roles[0].depends_on[0]: fact "uptime" changes all the time`},

		{"invalid selector in depends_on", "roles:\n- {name: web, depends_on: ['role=']}\n",
			`kicker.yaml:2: roles[0].depends_on[0]: selector "role=", at its end: `},
		{"dependency listed twice", "roles:\n- {name: web, depends_on: [db, db]}\n",
			`kicker.yaml:2: roles[0].depends_on[1]: "db" is listed twice: remove one`},
		{"dependency listed twice in another form", "roles:\n- {name: lb, depends_on: ['web same=b,a', 'web same=a,b']}\n",
			`kicker.yaml:2: roles[0].depends_on[1]: "web same=a,b" is listed twice: remove one`},
		{"no fact after with=", "roles:\n- {name: lb, depends_on: ['web with=?']}\n",
			`kicker.yaml:2: roles[0].depends_on[0]: depends_on "web with=?": ` +
				`write names of facts after with=, as in web with=ipaddress,weight?`},
		{"no fact after same=", "roles:\n- {name: lb, depends_on: ['web same=']}\n",
			`kicker.yaml:2: roles[0].depends_on[0]: depends_on "web same=": ` +
				`write names of facts after same=, as in web same=environment,site`},
		{"invalid fact after same=", "roles:\n- {name: lb, depends_on: ['web same=a..b']}\n",
			`kicker.yaml:2: roles[0].depends_on[0]: `},
		{"role and same= split into two words", "agent:\n  depends_on: web same=site\n  actions: [a=b]\n",
			`kicker.yaml:2: agent.depends_on[1]: "same=site" is separated from its role: ` +
				`write both as one item, such as ["web same=site"]`},

		{"ready.rise too low", "agent: {ready: {rise: 0}}\n",
			`kicker.yaml:1: agent.ready.rise: 0 is too low: use 1 or more`},
		{"ready.fall too low", "agent: {ready: {fall: 0}}\n",
			`kicker.yaml:1: agent.ready.fall: 0 is too low: use 1 or more`},
		{"ready.interval too short", "agent: {ready: {interval: 1ms}}\n",
			`kicker.yaml:1: agent.ready.interval: 1ms is too low: use 10ms or more`},
		{"invalid check", "agent: {ready: {check: maybe}}\n", `kicker.yaml:1: agent.ready.check: `},
		{"action given twice", "agent:\n  actions:\n  - {name: a, command: [x]}\n  - {name: a, command: [y]}\n",
			`kicker.yaml:4: agent.actions[1].name: "a" is the name of actions[0] already, choose another`},
		{"action without command", "agent:\n  actions:\n  - name: a\n",
			`kicker.yaml:3: agent.actions[0].command: empty, want a program and its arguments as a list`},
		{"open quote", "agent:\n  actions:\n  - {name: a, command: say 'x}\n",
			`kicker.yaml:3: agent.actions[0].command: "say 'x" ends inside quotes or after a backslash: complete it`},
		{"dependency without an action", "agent: {depends_on: [web]}\n",
			`kicker.yaml:1: agent.depends_on: no action uses it: ` +
				`add one under agent.actions, or with --action NAME=COMMAND`},
		{"invalid fact", "agent:\n  facts: [a=1, rack]\n",
			`kicker.yaml:2: agent.facts[1]: fact "rack": want NAME=VALUE, as in site.room=5`},
		{"contradictory facts", "agent:\n  facts: [a=1, a.b=2]\n",
			`kicker.yaml:2: agent.facts[1]: fact a.b: there is a=1 already, so there can be nothing below a`},
		{"no port", "agent:\n  facts:\n  - port=\n",
			`kicker.yaml:3: agent.facts[0]: fact port: "": want a number from 1 to 65535`},
		{"two facts in one", "agent: {facts: ['port=80,ipaddress=10.0.0.1']}\n",
			`kicker.yaml:1: agent.facts[0]: fact port: "80,ipaddress=10.0.0.1": want a number from 1 to 65535`},
		{"no address", "agent: {facts: [ipaddress=web1.example.com]}\n",
			`kicker.yaml:1: agent.facts[0]: fact ipaddress: "web1.example.com": want an IP address`},
		{"line break in a fact", "agent:\n  facts: [\"site=a\\nserver evil 203.0.113.6:80\"]\n",
			`kicker.yaml:2: agent.facts[0]: fact site: it has the control character U+000A: remove it`},
		{"line separator in a fact", "agent:\n  facts: [\"site=a\\u2028b\"]\n",
			`kicker.yaml:2: agent.facts[0]: fact site: it has the line separator U+2028: remove it`},
		{"blanks around a fact", "agent: {facts: ['site=a ']}\n",
			`kicker.yaml:1: agent.facts[0]: fact site: "a ": remove the blanks around the value`},
		{"role as a fact", "agent: {roles: [web], facts: [role=other]}\n",
			`kicker.yaml:1: agent.facts[0]: fact role: roles are no fact to set: use agent.roles, or --role`},
		{"unprintable instance", "agent: {instance: \"a\\u0007\"}\n",
			`kicker.yaml:1: agent.instance: "a\a": only printable characters are allowed`},
		{"unprintable dependency", "roles: [{name: lb, depends_on: [\"a='\\u0007'\"]}]\n",
			`kicker.yaml:1: roles[0].depends_on[0]: "a='\a'": only printable characters are allowed`},
		{"invalid node name", "agent: {name: Web1}\n",
			`kicker.yaml:1: agent.name: name "Web1": 'W' is not allowed, only a-z 0-9 _ - and dots between`},
		{"invalid port of a server", "agent: {server: ['a:b']}\n",
			`kicker.yaml:1: agent.server[0]: "a:b" has an invalid port: use a number from 0 to 65535`},
		{"unknown leave_on_stop", "agent: {leave_on_stop: maybe}\n",
			`kicker.yaml:1: agent.leave_on_stop: "maybe" is not one of auto, always, never`},

		{"unknown level", "log: {level: loud}\n",
			`kicker.yaml:1: log.level: "loud" is not one of debug, info, warn, error`},
		{"relative path", "state_dir: state\n",
			`kicker.yaml:1: state_dir: "state" is not an absolute path: start it with /`},
		{"invalid bus URL", "bus: {url: 'http://a'}\n",
			`kicker.yaml:1: bus.url: "http://a" is not a usable URL: ` +
				`write nats://HOST:PORT or tls://HOST:PORT or ws://HOST:PORT or wss://HOST:PORT`},
		{"password with special characters", "bus: {url: 'nats://sys:50%/x@a'}\n",
			`kicker.yaml:1: bus.url: "nats://xxxxx@a" is not a usable URL: ` +
				`write nats://HOST:PORT or tls://HOST:PORT or ws://HOST:PORT or wss://HOST:PORT, ` +
				`and percent-encode special characters in the user and password`},
		{"system account of the embedded bus", "bus: {system_url: 'nats://sys:secret@a'}\n",
			`kicker.yaml:1: bus.system_url: the embedded NATS server does not use it: remove it, or set bus.url`},
		{"system account without a user", "bus: {url: 'nats://a', system_url: 'nats://sys:secret@a,nats://b'}\n",
			`kicker.yaml:1: bus.system_url: "nats://b" names no user of the system account: ` +
				`write nats://USER:PASSWORD@HOST:PORT`},
		{"invalid URL of the system account", "bus: {url: 'nats://a', system_url: 'http://sys@a'}\n",
			`kicker.yaml:1: bus.system_url: "http://xxxxx@a" is not a usable URL: write nats://HOST:PORT`},
		{"invalid API URL", "api: {url: 'a:1'}\n",
			`kicker.yaml:1: api.url: "a:1" is not a usable URL: ` +
				`write http://HOST:PORT, https://HOST:PORT or unix:///PATH`},
		{"listener without a host", "api: {listen: '7423'}\n",
			`kicker.yaml:1: api.listen: "7423" is not an address: write HOST:PORT, or :PORT for all addresses`},
		{"invalid port of a listener", "api: {listen: '127.0.0.1:65536'}\n",
			`kicker.yaml:1: api.listen: "127.0.0.1:65536" has an invalid port: use a number from 0 to 65535`},
		{"bus beyond loopback without a token", "bus: {listen: '0.0.0.0:7422'}\n",
			`kicker.yaml:1: bus.listen: 0.0.0.0:7422 is beyond loopback and needs a token: ` +
				`set token_file (created if missing; copy it to the agents), or --insecure`},
		{"API beyond loopback without a token", "api: {listen: ':1'}\n",
			`kicker.yaml:1: api.listen: :1 is beyond loopback and needs a token: ` +
				`set token_file (created if missing; copy it to the agents), or --insecure`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := inFile(t, tc.file)
			o.Listens = true
			_, err := Load(o)
			var problems Problems
			if !errors.As(err, &problems) || len(problems) != 1 || !strings.HasPrefix(err.Error(), tc.want) {
				t.Errorf("%s\ngot\n%v\nwant\n%s", tc.file, err, tc.want)
			}
			if text := fmt.Sprint(err); strings.Contains(text, "secret") {
				t.Errorf("the error shows the password: %s", text)
			}
		})
	}
}

func TestAllMistakesAreNamedAtOnceInTheFilesOrder(t *testing.T) {
	_, err := Load(inFile(t, `agent:
  ready: {fall: 0}
settle: soon
roles:
  - {name: web, selector: x}
gone_after: 1s
colour: red
`))
	var got []string
	var problems Problems
	if errors.As(err, &problems) {
		for _, p := range problems {
			got = append(got, p.where+" "+p.key)
		}
	}
	want := []string{
		"kicker.yaml:2 agent.ready.fall", "kicker.yaml:3 settle", "kicker.yaml:5 roles[0].selector",
		"kicker.yaml:6 gone_after", "kicker.yaml:7 colour",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s\n%v", diff, err)
	}
}

func TestMistakesOutsideTheFileNameFlagOrVariable(t *testing.T) {
	o := inFile(t, "")
	t.Setenv("KICKER_GONE_AFTER", "1s")
	t.Setenv("KICKER_INSECURE", "perhaps")
	t.Setenv("KICKER_AGENT_ROLES", "web! lb!")
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.StringArray("action", nil, "")
	if err := flags.Parse([]string{"--action=reload"}); err != nil {
		t.Fatal(err)
	}
	o.Flags = map[string]*pflag.Flag{"agent.actions": flags.Lookup("action")}
	_, err := Load(o)
	if err == nil {
		t.Fatal("Load accepts a wrong flag and wrong variables")
	}
	for _, want := range []string{
		`KICKER_AGENT_ROLES: role "web!"`, `KICKER_AGENT_ROLES: role "lb!"`,
		`KICKER_GONE_AFTER: 1s is less`, `KICKER_INSECURE: want true or false, not "perhaps"`,
		`--action: action "reload": want NAME=COMMAND`,
	} {
		if !strings.Contains("\n"+err.Error(), "\n"+want) {
			t.Errorf("want a line that starts with %q in\n%v", want, err)
		}
	}
}

func TestUnusualButValidSettingsAreAccepted(t *testing.T) {
	for _, file := range []string{
		"roles: [{name: web1}, {name: lb, depends_on: [web2, db, role=wbe]}]", // roles that nodes may have
		"roles: [{name: web, depends_on: [web]}]",
		"roles: [{name: lb, depends_on: ['web same=environment,site.room', 'role=db same=environment']}]",
		"roles: [{name: web, min_members: 2, budget: 2}, {name: db, budget: 25%, min_members: 0}]",
		"guard: on",
		"guard: shadow\nin_flight: 1",
		"standby: true\nbus: {url: 'nats://a:4222'}",
		"bus: {listen: '0.0.0.0:7422'}\ninsecure: true",
		"bus: {listen: ':7422'}\napi: {listen: '10.0.0.1:7423'}\ntoken_file: /etc/kicker/token",
		"bus: {listen: '0.0.0.0:7422', url: 'nats://a:4222, tls://b'}",
		"bus: {listen: 'localhost:0'}\napi: {listen: '[::1]:7423'}",
		"api: {url: unix:///run/kicker/api.sock}",
		"settle: 0",
		"settle_min: 0\nsettle_max: 0",
		"mode: observe\nroles: [{name: web, mode: act}, {name: db, mode: observe}]",
		"agent: {ready: {check: 'tcp:80', rise: 1, fall: 1, interval: 10ms, timeout: 10ms}}",
		"api: {listen: '127.0.0.1:65535'}",
		"log:\nagent:\n",
		"---\nsettle: 1s\n",
	} {
		o := inFile(t, file)
		o.Listens = true
		if _, err := Load(o); err != nil {
			t.Errorf("%s\ngot %v", file, err)
		}
	}
}

func TestOpenListenerIsRejectedOnlyForCommandsThatListen(t *testing.T) {
	o := inFile(t, "bus: {listen: '0.0.0.0:7422'}")
	if _, err := Load(o); err != nil {
		t.Errorf("a command that opens no listener: %v", err)
	}
	o.Listens = true
	if _, err := Load(o); err == nil {
		t.Error("Load accepts an open listener for a command that listens")
	}
}
