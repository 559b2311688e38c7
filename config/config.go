// Package config reads kicker's settings from flags, the environment, one file and the defaults, in this order.
package config

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"kicker/controller"
	"kicker/controller/bus"
	"kicker/inventory"
	"kicker/kick"
)

// Config is every setting. Load returns it complete and checked; it does not change afterwards.
type Config struct {
	controller.Config `mapstructure:",squash"`

	StateDir  string      `mapstructure:"state_dir"`  // the token, the sockets, and the state of the agents
	TokenFile string      `mapstructure:"token_file"` // protects listeners beyond loopback; see TokenPath
	Insecure  bool        `mapstructure:"insecure"`   // listen beyond loopback without a token
	Log       LogConfig   `mapstructure:"log"`
	Bus       BusConfig   `mapstructure:"bus"`
	API       APIConfig   `mapstructure:"api"`
	Agent     AgentConfig `mapstructure:"agent"`
}

// LogConfig is how controllers and agents log to stderr.
type LogConfig struct {
	Level  string `mapstructure:"level"`
	Format string `mapstructure:"format"`
}

// BusConfig is the controller's bus.
type BusConfig struct {
	Listen    string `mapstructure:"listen"`     // address of the embedded NATS server
	URL       string `mapstructure:"url"`        // of an existing NATS; it replaces the embedded server
	SystemURL string `mapstructure:"system_url"` // of the same NATS, with a user of its system account
}

// APIConfig is the controller's HTTP API.
type APIConfig struct {
	Listen string `mapstructure:"listen"`
	URL    string `mapstructure:"url"` // where commands reach it; derived from Listen unless set
}

// AgentConfig is what a node announces, and the actions that it runs.
type AgentConfig struct {
	Server      []string      `mapstructure:"server"` // HOST, HOST:PORT or URL; see Servers
	Name        string        `mapstructure:"name"`   // the lower-cased FQDN unless set
	Instance    string        `mapstructure:"instance"`
	Roles       []string      `mapstructure:"roles"`
	DependsOn   []string      `mapstructure:"depends_on"` // of the actions that have no DependsOn of their own
	Facts       []string      `mapstructure:"facts"`      // PATH=VALUE
	Ready       ReadyConfig   `mapstructure:"ready"`
	Actions     []kick.Action `mapstructure:"actions"`
	LeaveOnStop string        `mapstructure:"leave_on_stop"` // one of the Leave constants
}

// ReadyConfig is how an agent checks whether its node's service is ready.
type ReadyConfig struct {
	Check    string        `mapstructure:"check"` // without a check, a live agent is ready
	Interval time.Duration `mapstructure:"interval"`
	Timeout  time.Duration `mapstructure:"timeout"`
	Rise     int           `mapstructure:"rise"` // successes in a row that make it ready
	Fall     int           `mapstructure:"fall"` // failures in a row that make it not ready
}

// Whether an agent leaves when it is stopped. A node that leaves stops being a member at once.
const (
	LeaveAuto   = "auto" // leave if the machine shuts down, else report a restart
	LeaveAlways = "always"
	LeaveNever  = "never"
)

// The default ports of the bus and of the API.
const (
	BusPort = "7422"
	APIPort = "7423"
)

// Default returns the settings of a controller or agent without any configuration.
func Default() Config {
	return Config{
		Config:   controller.DefaultConfig(),
		StateDir: defaultStateDir(os.Geteuid() == 0),
		Log:      LogConfig{Level: "info", Format: "text"},
		Bus:      BusConfig{Listen: "127.0.0.1:" + BusPort},
		API:      APIConfig{Listen: "127.0.0.1:" + APIPort},
		Agent: AgentConfig{
			Server: []string{"127.0.0.1:" + BusPort},
			Ready: ReadyConfig{
				Interval: inventory.DefaultCheckInterval, Timeout: inventory.DefaultCheckTimeout,
				Rise: inventory.DefaultRise, Fall: inventory.DefaultFall,
			},
			LeaveOnStop: LeaveAuto,
		},
	}
}

func defaultStateDir(root bool) string {
	if root {
		return "/var/lib/kicker"
	}
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "kicker")
	}
	home, _ := os.UserHomeDir() // without one, the checks reject the relative path: state_dir must then be set
	return filepath.Join(home, ".local", "state", "kicker")
}

// complete fills in the settings that follow from others.
func (c *Config) complete() {
	if c.API.URL == "" {
		host, port, _ := net.SplitHostPort(c.API.Listen) // checked before
		if ip, _ := netip.ParseAddr(host); host == "" || ip.IsUnspecified() {
			host = "127.0.0.1" // where this machine reaches it
		}
		c.API.URL = "http://" + net.JoinHostPort(host, port)
	}
	if len(c.Agent.Server) == 0 {
		c.Agent.Server = Default().Agent.Server
	}
	for i := range c.Agent.Actions {
		if a := &c.Agent.Actions[i]; len(a.DependsOn) == 0 {
			a.DependsOn = c.Agent.DependsOn
		}
	}
}

// TokenPath is the file with the token that the controller's API requires for changes.
func (c Config) TokenPath() string {
	return cmp.Or(c.TokenFile, filepath.Join(c.StateDir, "token"))
}

// Servers returns the URLs at which an agent joins the bus.
func (c AgentConfig) Servers() []string {
	var urls []string
	for _, s := range c.Server {
		if u, err := serverURL(s); err == nil { // Load rejects the others
			urls = append(urls, u)
		}
	}
	return urls
}

// Parse returns the check. It fails if none is set.
func (c ReadyConfig) Parse() (inventory.Check, error) {
	check, err := inventory.ParseCheck(c.Check)
	check.Interval, check.Timeout, check.Rise, check.Fall = c.Interval, c.Timeout, c.Rise, c.Fall
	return check, err
}

// serverURL returns the URL of a bus server that is given as HOST, HOST:PORT or URL.
func serverURL(s string) (string, error) {
	if strings.Contains(s, "://") {
		return s, checkURL(s, busSchemes...)
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil { // no port
		host, port = strings.Trim(s, "[]"), BusPort
	}
	if _, err := netip.ParseAddr(host); err != nil && (host == "" || strings.ContainsAny(host, ":/ ,[]")) {
		return "", fmt.Errorf("%q is not a server: write HOST, HOST:PORT or nats://HOST:PORT", s)
	}
	return "nats://" + net.JoinHostPort(host, port), checkPort(s, port)
}

// checkPort reports a wrong port in an address.
func checkPort(address, port string) error {
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("%q has an invalid port: use a number from 0 to 65535", address)
	}
	return nil
}

var busSchemes = []string{"nats", "tls", "ws", "wss"}

// checkURL reports what is not a URL of one of the schemes. The error shows neither user nor password.
func checkURL(s string, schemes ...string) error {
	u, err := url.Parse(s)
	if err == nil && u.Host != "" && slices.Contains(schemes, u.Scheme) {
		return nil
	}
	forms := strings.Join(schemes, "://HOST:PORT or ") + "://HOST:PORT"
	if strings.Contains(s, "@") {
		forms += ", and percent-encode special characters in the user and password"
	}
	return fmt.Errorf("%q is not a usable URL: write %s", bus.Redacted(s), forms)
}
