package config

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

func TestMistakesNamePlaceKeyAndRemedy(t *testing.T) {
	for _, tc := range []struct{ name, file, want string }{
		{"near miss of a declared role", "roles:\n- name: web\n- name: lb\n  depends_on: [wbe]\n",
			`kicker.yaml:4: roles[1].depends_on[0]: no role "wbe" (did you mean "web"? else declare it under roles)`},
		{"near miss of a role that the agent bears", "agent:\n  roles: [haproxy]\n  depends_on: [haprxoy]\n  actions: [a=b]\n",
			`kicker.yaml:3: agent.depends_on[0]: no role "haprxoy" (did you mean "haproxy"? else declare it under roles)`},
		{"unknown key", "\nsettle_mim: 5s\n", `kicker.yaml:2: settle_mim: unknown key (did you mean "settle_min"?)`},
		{"unknown key in an entry", "roles:\n- name: web\n  selektor: a=b\n", `kicker.yaml:3: roles[0].selektor: unknown key (did you mean "selector"?)`},
		{"key in capitals", "Cluster: a\n", `kicker.yaml:1: Cluster: unknown key (did you mean "cluster"?)`},
		{"key in the wrong place", "server: [a]\n", `kicker.yaml:1: server: unknown key (did you mean agent.server?)`},
		{"key like no other", "log:\n  colour: red\n", `kicker.yaml:2: log.colour: unknown key: there are level, format`},
		{"unknown key without a value", "frob:\nlog:\n", `kicker.yaml:1: frob: unknown key: there are cluster, roles, gone_after, settle, settle_min, settle_max, backoff, standby, in_flight, guard, mode, state_dir, token_file, insecure, log, bus, api, agent`},
		{"unknown key through an alias", "roles:\n- &w {name: web}\nlog: *w\n", `log.name: unknown key: there are level, format`},
		{"key given twice", "settle: 1s\nlog: {}\nsettle: 2s\n", `kicker.yaml:3: settle: line 1 has it already: remove one of them`},
		{"no YAML", "settle: 1s\na: b: c\n", `kicker.yaml:2: mapping values are not allowed in this context`},
		{"no keys", "- a\n", `kicker.yaml: want lines of KEY: VALUE at the top`},
		{"two documents", "settle: 1s\n---\nsettle: 2s\n", `kicker.yaml: more than one document, or something after its end: only the first would be read`},
		{"duration without unit", "settle: 5\n", `kicker.yaml:1: settle: 5 has no unit: write 5s, or 5ms`},
		{"duration in no unit", "settle: 5 seconds\n", `kicker.yaml:1: settle: "5 seconds" is no duration: write it with its unit, such as 500ms, 10s or 5m`},
		{"list for a duration", "settle: [5s]\n", `kicker.yaml:1: settle: want a duration such as 10s or 5m, not a list`},
		{"number for a text", "agent:\n  actions:\n  - name: a\n    command: [chmod, 0644]\n", `kicker.yaml:4: agent.actions[0].command[1]: want a text, not a whole number: put it in quotes`},
		{"yes for a text", "agent:\n  name: true\n", `kicker.yaml:2: agent.name: want a text, not true or false: put it in quotes`},
		{"text for a bool", "insecure: perhaps\n", `kicker.yaml:1: insecure: want true or false, not "perhaps"`},
		{"fraction for a count", "agent: {ready: {rise: 1.5}}\n", `kicker.yaml:1: agent.ready.rise: want a whole number, not a fraction`},
		{"text for entries", "roles: web\n", `kicker.yaml:1: roles: want a list of entries with keys, not "web"`},
		{"text for an entry", "roles: [web]\n", `kicker.yaml:1: roles[0]: want keys with values, not "web"`},
		{"entry for a list of entries", "roles: {name: web}\n", `kicker.yaml:1: roles: want a list of entries with keys, not keys with values`},
		{"number for a group", "backoff: 5\n", `kicker.yaml:1: backoff: want keys with values, not a whole number`},
		{"impatient", "gone_after: 3s\n", `kicker.yaml:1: gone_after: 3s is less than 3.5 heartbeats, so two lost ones would remove a node: want 3.5s or more`},
		{"impatient with a role", "roles: [{name: web, gone_after: 1s}]\n", `kicker.yaml:1: roles[0].gone_after: 1s is less than 3.5 heartbeats, so two lost ones would remove a node: want 3.5s or more`},
		{"bounds the wrong way round", "settle_min: 2m\n", `kicker.yaml:1: settle_min: settle_min 2m0s is more than settle_max 1m0s: raise settle_max, or lower settle_min`},
		{"bounds the wrong way round, the other way", "settle_max: 1s\n", `kicker.yaml:1: settle_max: settle_min 5s is more than settle_max 1s: raise settle_max, or lower settle_min`},
		{"negative", "settle: -1s\n", `kicker.yaml:1: settle: -1s: want 0s or more`},
		{"no pause", "backoff: {initial: 0}\n", `kicker.yaml:1: backoff.initial: 0s: want 100ms or more`},
		{"backoff the wrong way round", "backoff: {initial: 1h}\n", `kicker.yaml:1: backoff.initial: backoff.initial 1h0m0s is more than backoff.max 10m0s: raise backoff.max, or lower backoff.initial`},
		{"role declared twice", "roles:\n- name: web\n- name: web\n", `kicker.yaml:3: roles[1].name: "web" is the name of roles[0] already: make one entry of the two`},
		{"role without name", "roles:\n- selector: a=b\n", `kicker.yaml:2: roles[0].name: a role needs a name`},
		{"role with an impossible name", "roles:\n- name: a b\n", `kicker.yaml:2: roles[0].name: role "a b": ' ' is not allowed, only letters, digits and _ . : -`},
		{"no selector", "roles:\n- name: web\n  selector: role\n", `kicker.yaml:3: roles[0].selector: selector "role", at its end: `},
		{"no selector to depend on", "roles:\n- {name: web, depends_on: ['role=']}\n", `kicker.yaml:2: roles[0].depends_on[0]: selector "role=", at its end: `},
		{"needed twice", "roles:\n- {name: web, depends_on: [db, db]}\n", `kicker.yaml:2: roles[0].depends_on[1]: "db" is there twice: remove one`},
		{"an action for nothing", "roles:\n- {name: web, action: a}\n", `kicker.yaml:2: roles[0].action: "a" is the action that depends_on is for, and there is none: add depends_on, or remove action`},
		{"a fact that always changes", "roles:\n- name: web\n  member_facts: [port, system_uptime.seconds]\n", `kicker.yaml:3: roles[0].member_facts[1]: "system_uptime.seconds" always changes, so dependents would be kicked without end: leave it out`},
		{"a fact that always changes, in a selector", "roles:\n- name: web\n  selector: role=web,uptime!=0\n", `kicker.yaml:3: roles[0].selector: "uptime" always changes, so dependents would be kicked without end: leave it out`},
		{"a fact that always changes, to depend on", "roles:\n- {name: lb, depends_on: ['load.1m=0']}\n", `kicker.yaml:2: roles[0].depends_on[0]: "load.1m" always changes`},
		{"a fact that always changes, to share", "roles:\n- {name: lb, depends_on: ['web same=uptime']}\n", `kicker.yaml:2: roles[0].depends_on[0]: "uptime" always changes`},
		{"nothing to share", "roles:\n- {name: lb, depends_on: ['web same=']}\n", `kicker.yaml:2: roles[0].depends_on[0]: depends_on "web same=": after same= come names of facts, as in web same=environment,site`},
		{"no name of a fact to share", "roles:\n- {name: lb, depends_on: ['web same=a..b']}\n", `kicker.yaml:2: roles[0].depends_on[0]: `},
		{"near miss of a declared role that is narrowed", "roles:\n- name: web\n- {name: lb, depends_on: [wbe same=site]}\n", `kicker.yaml:3: roles[1].depends_on[0]: no role "wbe" (did you mean "web"?`},
		{"needed whole and narrowed", "roles:\n- {name: lb, depends_on: [web same=site, web]}\n", `kicker.yaml:2: roles[0].depends_on[1]: "web" is there twice: remove one`},
		{"one text for a role and what it shares", "agent:\n  depends_on: web same=site\n  actions: [a=b]\n", `kicker.yaml:2: agent.depends_on[1]: "same=site" stands apart from its role: write both as one item of a list, as in ["web same=site"]`},
		{"fewer members than none", "roles: [{name: web, min_members: -1}]\n", `kicker.yaml:1: roles[0].min_members: -1: want 0 or more`},
		{"no budget", "roles: [{name: web, budget: some}]\n", `kicker.yaml:1: roles[0].budget: budget "some": want a number of runs from 1, or a percentage such as 10%`},
		{"a budget of nothing", "roles: [{name: web, budget: 0}]\n", `kicker.yaml:1: roles[0].budget: budget "0": want`},
		{"a budget of more than all", "roles: [{name: web, budget: 101%}]\n", `kicker.yaml:1: roles[0].budget: budget "101%": want`},
		{"nobody in flight", "in_flight: 0\n", `kicker.yaml:1: in_flight: 0: want 1 or more`},
		{"no guard", "guard: off\n", `kicker.yaml:1: guard: "off": want on, shadow`},
		{"no mode", "mode: dry-run\n", `kicker.yaml:1: mode: "dry-run": want act, observe`},
		{"no mode of a role", "roles:\n- {name: web, mode: off}\n", `kicker.yaml:2: roles[0].mode: "off": want act, observe`},
		{"backwards in time", "settle: -1s\n", `kicker.yaml:1: settle: -1s: want 0s or more`},
		{"never unready", "agent: {ready: {fall: 0}}\n", `kicker.yaml:1: agent.ready.fall: 0: want 1 or more`},
		{"checks without a pause", "agent: {ready: {interval: 1ms}}\n", `kicker.yaml:1: agent.ready.interval: 1ms: want 10ms or more`},
		{"no port", "api: {listen: '127.0.0.1:65536'}\n", `kicker.yaml:1: api.listen: "127.0.0.1:65536": port "65536": want a number from 0 to 65535`},
		{"standby of an embedded bus", "standby: true\n", `kicker.yaml:1: standby: without bus.url it would have nothing to take over: the embedded bus dies with its controller. Set bus.url to a NATS that outlives both`},
		{"action given twice", "agent:\n  actions:\n  - {name: a, command: [x]}\n  - {name: a, command: [y]}\n", `kicker.yaml:4: agent.actions[1].name: "a" is the name of actions[0] already, choose another`},
		{"action without command", "agent:\n  actions:\n  - name: a\n", `kicker.yaml:3: agent.actions[0].command: empty, want a program and its arguments as a list`},
		{"quote left open", "agent:\n  actions:\n  - {name: a, command: say 'x}\n", `kicker.yaml:3: agent.actions[0].command: Unterminated single-quoted string`},
		{"depends, but does nothing", "agent: {depends_on: [web]}\n", `kicker.yaml:1: agent.depends_on: there is no action to run when they change: add one under agent.actions, or with --action NAME=COMMAND`},
		{"no check", "agent: {ready: {check: maybe}}\n", `kicker.yaml:1: agent.ready.check: `},
		{"never ready", "agent: {ready: {rise: 0}}\n", `kicker.yaml:1: agent.ready.rise: 0: want 1 or more`},
		{"no fact", "agent:\n  facts: [a=1, rack]\n", `kicker.yaml:2: agent.facts[1]: fact "rack": want NAME=VALUE, as in site.room=5`},
		{"facts that exclude each other", "agent:\n  facts: [a=1, a.b=2]\n", `kicker.yaml:2: agent.facts[1]: fact a.b: there is a=1 already, so there can be nothing below a`},
		{"no node name", "agent: {name: Web1}\n", `kicker.yaml:1: agent.name: name "Web1": 'W' is not allowed, only a-z 0-9 _ - and dots between`},
		{"no cluster name", "cluster: _x\n", `kicker.yaml:1: cluster: name "_x": names that start with _ are reserved`},
		{"no server", "agent: {server: ['a:b']}\n", `kicker.yaml:1: agent.server[0]: "a:b": port "b": want a number from 0 to 65535`},
		{"no goodbye", "agent: {leave_on_stop: maybe}\n", `kicker.yaml:1: agent.leave_on_stop: "maybe": want auto, always, never`},
		{"no level", "log: {level: loud}\n", `kicker.yaml:1: log.level: "loud": want debug, info, warn, error`},
		{"no bus", "bus: {url: 'http://a'}\n", `kicker.yaml:1: bus.url: "http://a": write nats://HOST:PORT or tls://HOST:PORT or ws://HOST:PORT or wss://HOST:PORT`},
		{"a system account of the embedded bus", "bus: {system_url: 'nats://sys:secret@a'}\n", `kicker.yaml:1: bus.system_url: without bus.url there is no other NATS, and the embedded one needs none to tell which connections close: remove it, or set bus.url`},
		{"a system account without a user", "bus: {url: 'nats://a', system_url: 'nats://sys:secret@a,nats://b'}\n", `kicker.yaml:1: bus.system_url: "nats://b" names no user of NATS's system account: write it as nats://USER:PASSWORD@HOST:PORT`},
		{"no bus of a system account", "bus: {url: 'nats://a', system_url: 'http://sys@a'}\n", `kicker.yaml:1: bus.system_url: "http://xxxxx@a": write nats://HOST:PORT`},
		{"no API", "api: {url: 'a:1'}\n", `kicker.yaml:1: api.url: "a:1": write http://HOST:PORT, https://HOST:PORT or unix:///PATH`},
		{"no listener", "api: {listen: '7423'}\n", `kicker.yaml:1: api.listen: "7423": want HOST:PORT, or :PORT for all addresses`},
		{"relative to what", "state_dir: state\n", `kicker.yaml:1: state_dir: "state": want an absolute path`},
		{"bus open to all", "bus: {listen: '0.0.0.0:7422'}\n", `kicker.yaml:1: bus.listen: listen 0.0.0.0:7422: beyond loopback needs a token: set token_file (it is made if missing; copy it to the agents), or --insecure`},
		{"API open to all", "api: {listen: ':1'}\n", `kicker.yaml:1: api.listen: listen :1: beyond loopback needs a token: set token_file (it is made if missing; copy it to the agents), or --insecure`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := inFile(t, tc.file)
			o.Listens = true
			_, err := Load(o)
			var problems Problems
			if !errors.As(err, &problems) || len(problems) != 1 || !strings.HasPrefix(err.Error(), tc.want) {
				t.Errorf("%s\ngot\n%v\nwant\n%s", tc.file, err, tc.want)
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
			got = append(got, p.Where+" "+p.Key)
		}
	}
	want := []string{"kicker.yaml:2 agent.ready.fall", "kicker.yaml:3 settle", "kicker.yaml:5 roles[0].selector", "kicker.yaml:6 gone_after", "kicker.yaml:7 colour"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s\n%v", diff, err)
	}
}

func TestMistakesOutsideTheFileNameFlagOrVariable(t *testing.T) {
	o := inFile(t, "")
	t.Setenv("KICKER_GONE_AFTER", "1s")
	t.Setenv("KICKER_INSECURE", "perhaps")
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.StringArray("action", nil, "")
	if err := flags.Parse([]string{"--action=reload"}); err != nil {
		t.Fatal(err)
	}
	o.Flags = map[string]*pflag.Flag{"agent.actions": flags.Lookup("action")}
	_, err := Load(o)
	if err == nil {
		t.Fatal("taken")
	}
	for _, want := range []string{`KICKER_GONE_AFTER: 1s is less`, `KICKER_INSECURE: want true or false, not "perhaps"`, `--action: action "reload": want NAME=COMMAND`} {
		if !strings.Contains("\n"+err.Error(), "\n"+want) {
			t.Errorf("want a line with %q in\n%v", want, err)
		}
	}
}

func TestWhatMayWellBeMeantIsTaken(t *testing.T) {
	for _, file := range []string{
		"roles: [{name: web1}, {name: lb, depends_on: [web2, db, role=wbe]}]", // nodes may bear them
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
		"x: &x\n",
	} {
		o := inFile(t, file)
		o.Listens = true
		_, err := Load(o)
		if strings.HasPrefix(file, "x:") != (err != nil) {
			t.Errorf("%s\ngot %v", file, err)
		}
	}
}

func TestOnlyWhoListensIsRefusedAnOpenListener(t *testing.T) {
	o := inFile(t, "bus: {listen: '0.0.0.0:7422'}")
	if _, err := Load(o); err != nil {
		t.Errorf("a command that opens no listener: %v", err)
	}
	o.Listens = true
	if _, err := Load(o); err == nil {
		t.Error("a command that opens it was let")
	}
}
