package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/pflag"

	"kicker/controller/membership"
	"kicker/controller/plan"
	"kicker/kick"
)

// inFile writes kicker.yaml into an empty directory, which becomes the working directory.
func inFile(t *testing.T, text string) Options {
	t.Helper()
	t.Chdir(t.TempDir())
	if err := os.WriteFile("kicker.yaml", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return Options{File: "kicker.yaml"}
}

func mustLoad(t *testing.T, o Options) Config {
	t.Helper()
	c, err := Load(o)
	if err != nil {
		t.Fatalf("Load: %v", err)
	}
	return c
}

func TestNoConfigurationIsTheDefault(t *testing.T) {
	got := mustLoad(t, inFile(t, ""))
	want := Default()
	want.API.URL = "http://127.0.0.1:7423"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("an empty file (-default +got):\n%s", diff)
	}
}

func TestFlagsWinOverEnvironmentOverFileOverDefault(t *testing.T) {
	o := inFile(t, "cluster: file\nlog: {level: warn, format: json}\ngone_after: 20s\nsettle_max: 50s\n")
	t.Setenv("KICKER_CLUSTER", "env")
	t.Setenv("KICKER_GONE_AFTER", "30s")
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.String("cluster", "flag's default", "")
	flags.String("log-level", "flag's default", "")
	flags.Duration("gone-after", 0, "")
	if err := flags.Parse([]string{"--cluster=flag"}); err != nil {
		t.Fatal(err)
	}
	o.Flags = map[string]*pflag.Flag{
		"cluster": flags.Lookup("cluster"), "log.level": flags.Lookup("log-level"),
		"gone_after": flags.Lookup("gone-after"),
	}
	c := mustLoad(t, o)
	got := []any{c.Cluster, c.GoneAfter, c.SettleMax, c.Log, c.SettleMin}
	want := []any{"flag", 30 * time.Second, 50 * time.Second, LogConfig{"warn", "json"}, 5 * time.Second}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestFileSetsEveryKindOfValue(t *testing.T) {
	c := mustLoad(t, inFile(t, `
roles:
  - name: WebFront
    selector: role=web,os.family=Debian
    member_facts: [IPAddress, net.port]
    gone_after: 5s
    min_members: 2
    budget: 3
  - {name: lb, depends_on: [WebFront same=Rack, "role=db"], action: reload, budget: 25%}
agent:
  server: [a.example, "[::1]", "b:1", nats://c:2]
  roles: lb
  facts: [Rack=A-7, site.room=5]
  depends_on: WebFront
  ready: {check: "tcp:80", interval: 500ms, rise: 2}
  actions:
    - {name: reload, command: [Reload, --Now], env: [Path=X], timeout: 1m, success: [0, 2]}
    - {name: note, command: say 'two words', depends_on: db}
    - once=/bin/once "a b"
`))
	if diff := cmp.Diff([]membership.RoleConfig{
		{
			Name: "WebFront", Selector: "role=web,os.family=Debian", MemberFacts: []string{"IPAddress", "net.port"},
			GoneAfter: 5 * time.Second, MinMembers: 2, Budget: "3",
		},
		{Name: "lb", DependsOn: []string{"WebFront same=Rack", "role=db"}, Action: "reload", Budget: "25%", MinMembers: 1},
	}, c.Roles); diff != "" {
		t.Errorf("roles (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(AgentConfig{
		Server:    []string{"a.example", "[::1]", "b:1", "nats://c:2"},
		Roles:     []string{"lb"},
		Facts:     []string{"Rack=A-7", "site.room=5"},
		DependsOn: []string{"WebFront"},
		Ready: ReadyConfig{
			Check: "tcp:80", Interval: 500 * time.Millisecond, Timeout: time.Second, Rise: 2, Fall: 3,
		},
		Actions: []kick.Action{
			{
				Name: "reload", Command: []string{"Reload", "--Now"}, Env: []string{"Path=X"},
				DependsOn: []string{"WebFront"}, Timeout: time.Minute, Success: []int{0, 2},
			},
			{Name: "note", Command: []string{"say", "two words"}, DependsOn: []string{"db"}},
			{Name: "once", Command: []string{"/bin/once", "a b"}, DependsOn: []string{"WebFront"}},
		},
		LeaveOnStop: LeaveAuto,
	}, c.Agent); diff != "" {
		t.Errorf("agent (-want +got):\n%s", diff)
	}
	want := []string{"nats://a.example:7422", "nats://[::1]:7422", "nats://b:1", "nats://c:2"}
	if diff := cmp.Diff(want, c.Agent.Servers()); diff != "" {
		t.Errorf("servers (-want +got):\n%s", diff)
	}
	check, err := c.Agent.Ready.Parse()
	if err != nil || check.Interval != 500*time.Millisecond || check.Rise != 2 || check.Fall != 3 {
		t.Errorf("check = %+v, %v, want the intervals and counts of the file", check, err)
	}
}

func TestEnvironmentSetsScalarsAndLists(t *testing.T) {
	o := inFile(t, "")
	for name, value := range map[string]string{
		"KICKER_INSECURE":             "true",
		"KICKER_BUS_URL":              "nats://bus:4222",
		"KICKER_BACKOFF_INITIAL":      "3s",
		"KICKER_AGENT_NAME":           "web1.example",
		"KICKER_AGENT_SERVER":         "a b:1",
		"KICKER_AGENT_FACTS":          "rack=7 'motto=two words'",
		"KICKER_AGENT_READY_FALL":     "7",
		"KICKER_AGENT_READY_INTERVAL": "2s",
		"KICKER_LOG_LEVEL":            "", // counts as not set
	} {
		t.Setenv(name, value)
	}
	c := mustLoad(t, o)
	got := []any{
		c.Insecure, c.Bus.URL, c.Backoff, c.Agent.Name, c.Agent.Server,
		c.Agent.Facts, c.Agent.Ready.Fall, c.Agent.Ready.Interval, c.Log.Level,
	}
	want := []any{
		true, "nats://bus:4222", plan.BackoffConfig{Initial: 3 * time.Second, Max: 10 * time.Minute},
		"web1.example", []string{"a", "b:1"}, []string{"rack=7", "motto=two words"}, 7, 2 * time.Second, "info",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestRepeatedFlagsAreAListAsTyped(t *testing.T) {
	o := inFile(t, "agent: {roles: [file], actions: [{name: file, command: [x]}]}")
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.StringArray("role", nil, "")
	flags.StringArray("depends-on", nil, "")
	flags.StringArray("action", nil, "")
	if err := flags.Parse([]string{
		"--role=lb", "--role=cache", "--depends-on=role=web,env=prod", "--action", `reload=/bin/reload "a, b" ']' \"`,
	}); err != nil {
		t.Fatal(err)
	}
	o.Flags = map[string]*pflag.Flag{
		"agent.roles": flags.Lookup("role"), "agent.depends_on": flags.Lookup("depends-on"),
		"agent.actions": flags.Lookup("action"),
	}
	c := mustLoad(t, o)
	want := AgentConfig{
		Roles:     []string{"lb", "cache"},
		DependsOn: []string{"role=web,env=prod"},
		Actions: []kick.Action{{
			Name: "reload", Command: []string{"/bin/reload", "a, b", "]", `"`},
			DependsOn: []string{"role=web,env=prod"},
		}},
	}
	got := AgentConfig{Roles: c.Agent.Roles, DependsOn: c.Agent.DependsOn, Actions: c.Agent.Actions}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestTypedPathsAreRelativeToTheWorkingDirectory(t *testing.T) {
	o := inFile(t, "")
	t.Setenv("KICKER_STATE_DIR", "state")
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	c := mustLoad(t, o)
	if want := filepath.Join(here, "state", "token"); c.TokenPath() != want {
		t.Errorf("TokenPath() = %s, want %s", c.TokenPath(), want)
	}
}

func TestAPIURLFollowsTheListenAddress(t *testing.T) {
	for listen, want := range map[string]string{
		"127.0.0.1:1":    "http://127.0.0.1:1",
		":2":             "http://127.0.0.1:2",
		"0.0.0.0:3":      "http://127.0.0.1:3",
		"[::]:4":         "http://127.0.0.1:4",
		"10.0.0.1:5":     "http://10.0.0.1:5",
		"ctl.example:67": "http://ctl.example:67",
	} {
		if c := mustLoad(t, inFile(t, `api: {listen: "`+listen+`"}`)); c.API.URL != want {
			t.Errorf("api.listen %s: url %s, want %s", listen, c.API.URL, want)
		}
	}
}

func TestFindSearchesFlagVariableDirectoryThenEtc(t *testing.T) {
	t.Chdir(t.TempDir())
	me := os.Geteuid()
	found := func(o Options, uid int) string {
		t.Helper()
		path, err := find(o, uid)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Replace(path, "/etc/kicker/kicker.yaml", "", 1) // this machine may have one
	}
	if got := found(Options{}, me); got != "" {
		t.Errorf("without any file: %q", got)
	}
	if err := os.WriteFile("kicker.yaml", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		o    Options
		uid  int
		want string
	}{
		{Options{}, me, "kicker.yaml"},
		{Options{Daemon: true}, 0, ""},
		{Options{File: "x.yaml", Daemon: true}, 0, "x.yaml"},
	} {
		if got := found(tc.o, tc.uid); got != tc.want {
			t.Errorf("find(%+v, uid %v) = %q, want %q", tc.o, tc.uid, got, tc.want)
		}
	}
	t.Setenv("KICKER_CONFIG", "env.yaml")
	if got := found(Options{}, me); got != "env.yaml" {
		t.Errorf("with KICKER_CONFIG: %q", got)
	}
	if got := found(Options{File: "x.yaml"}, me); got != "x.yaml" {
		t.Errorf("with --config and KICKER_CONFIG: %q", got)
	}
	if _, err := Load(Options{}); err == nil || !strings.Contains(err.Error(), "env.yaml") {
		t.Errorf("KICKER_CONFIG names a missing file: %v, want an error that names it", err)
	}
}

func TestFileOfAnotherUserIsRejected(t *testing.T) {
	inFile(t, "")
	stranger := os.Geteuid() + 1
	if stranger == 1 { // root's files are accepted
		stranger = 2
		if err := os.Chown("kicker.yaml", 1, 1); err != nil {
			t.Fatal(err)
		}
	}
	path, err := find(Options{}, stranger)
	if err == nil || !strings.Contains(err.Error(), "use --config kicker.yaml") {
		t.Errorf("find() = %q, %v, want an error with the remedy", path, err)
	}
	if path, err := find(Options{File: "kicker.yaml"}, stranger); err != nil {
		t.Errorf("find(--config kicker.yaml) = %q, %v", path, err)
	}
}

func TestShownSettingsLoadAgainAndNameTheirSources(t *testing.T) {
	o := inFile(t, `
settle: 0
token_file: /etc/kicker/token
bus: {url: "nats://user:secret@bus:4222", system_url: "nats://sys:secret@bus:4222"}
roles: [{name: web, gone_after: 90s}]
agent:
  facts: [a=1, "b='x: y'"]
  actions: [{name: reload, command: [a, "b c"]}]
`)
	t.Setenv("KICKER_BACKOFF_MAX", "1h")
	var shown strings.Builder
	if err := Show(o, &shown); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"settle: 0s # kicker.yaml:2\n", "  max: 1h # KICKER_BACKOFF_MAX\n", "settle_max: 1m # default\n",
		"guard: \"on\" # default\n", // YAML 1.1 reads on as true
		"roles: # kicker.yaml:5\n",
	} {
		if !strings.Contains(shown.String(), want) {
			t.Errorf("want %q in:\n%s", want, &shown)
		}
	}
	if strings.Contains(shown.String(), "secret") {
		t.Errorf("Show prints the password:\n%s", &shown)
	}
	before := mustLoad(t, o)
	unhidden := strings.Replace(shown.String(), "xxxxx@", "user:secret@", 1)
	unhidden = strings.Replace(unhidden, "xxxxx@", "sys:secret@", 1)
	after := mustLoad(t, inFile(t, unhidden))
	if diff := cmp.Diff(before, after, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("the shown settings load differently (-before +after):\n%s\n%s", diff, &shown)
	}
}

func TestFlagReplacesOnlyItsOwnKey(t *testing.T) {
	o := inFile(t, "bus: {listen: '127.0.0.1:1', url: nats://file:1}")
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.String("listen", "", "")
	if err := flags.Parse([]string{"--listen=127.0.0.1:2"}); err != nil {
		t.Fatal(err)
	}
	o.Flags = map[string]*pflag.Flag{"bus.listen": flags.Lookup("listen")}
	if got, want := mustLoad(t, o).Bus, (BusConfig{Listen: "127.0.0.1:2", URL: "nats://file:1"}); got != want {
		t.Errorf("bus = %+v, want %+v", got, want)
	}
}

func TestFlagForAnUnknownKeyIsRejected(t *testing.T) {
	o := inFile(t, "")
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.String("name", "", "")
	o.Flags = map[string]*pflag.Flag{"agent.nam": flags.Lookup("name")}
	if _, err := Load(o); err == nil || err.Error() != "flag --name sets the unknown key agent.nam" {
		t.Errorf("Load: %v", err)
	}
}

func FuzzEveryFileLoadsOrIsRejectedWithProblems(f *testing.F) {
	example, err := os.ReadFile("../docs/reference/kicker.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(example)
	for _, seed := range []string{
		"", "---\n", "null", "[]", "a: &a [*a]", "a: &a {<<: *a}", "backoff: 5", "roles: {name: x}",
		"roles: [null, 1, {name: [1]}]", "agent: {ready: null, actions: [x=y, {command: a}]}", "gone_after: 1e9",
		"? [a]\n: b", "bus: {listen: 1:2:3}", "cluster: !!binary aGk=", "settle: 2001-01-01",
		"agent: {facts: [a=1, a.b=2]}", "roles: &r [{name: a, depends_on: [b=]}]\nagent: {roles: *r}", "1: 2",
		"a::b: 3", "backoff::max: 1s", "log: {level: {}}", "insecure: [true]",
		"agent: {ready: {rise: 1.5, fall: 99999999999999999999}}", "log: &l {<<: *l}", "log: {}\nlog: {}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parse(data, Options{File: "kicker.yaml", Listens: true})
		if err == nil {
			if where, _ := r.of("api.url"); where == "" {
				r.config.API.URL = "" // it is derived
			}
			if r.checkAll(); len(r.problems) > 0 {
				t.Errorf("%q: accepted, but it has problems: %v", data, r.problems)
			}
		}
		if problems, ok := err.(Problems); err != nil && (!ok || len(problems) == 0 || problems.Error() == "") {
			t.Errorf("%q: error %v, want problems", data, err)
		}
	})
}
