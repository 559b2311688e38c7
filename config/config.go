// Package config is what kicker was told: by flags, by the environment, by one file, and by what holds unless told otherwise.
package config

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"kicker/controller"
	"kicker/controller/bus"
	"kicker/inventory"
	"kicker/kick"
)

// Config is every setting. Load makes it, whole and checked; nobody changes it afterwards.
type Config struct {
	controller.Config `mapstructure:",squash"`

	StateDir  string      `mapstructure:"state_dir"`  // the token, the sockets, and what an agent must not forget
	TokenFile string      `mapstructure:"token_file"` // what guards listeners beyond loopback; see TokenPath
	Insecure  bool        `mapstructure:"insecure"`   // listen beyond loopback without a token
	Log       LogConfig   `mapstructure:"log"`
	Bus       BusConfig   `mapstructure:"bus"`
	API       APIConfig   `mapstructure:"api"`
	Agent     AgentConfig `mapstructure:"agent"`
}

// LogConfig is how the daemons log, on stderr.
type LogConfig struct {
	Level  string `mapstructure:"level"`
	Format string `mapstructure:"format"`
}

// BusConfig is where the controller has its bus.
type BusConfig struct {
	Listen    string `mapstructure:"listen"`     // of the embedded NATS server
	URL       string `mapstructure:"url"`        // of an existing NATS; no embedded server then
	SystemURL string `mapstructure:"system_url"` // of the same NATS, with a user of its system account
}

// APIConfig is where the controller is asked.
type APIConfig struct {
	Listen string `mapstructure:"listen"`
	URL    string `mapstructure:"url"` // where the commands for people find it; follows Listen unless set
}

// AgentConfig is what a node says of itself, and does when it is kicked.
type AgentConfig struct {
	Server      []string      `mapstructure:"server"` // HOST, HOST:PORT or URL; see Servers
	Name        string        `mapstructure:"name"`   // the lower-cased FQDN unless set
	Instance    string        `mapstructure:"instance"`
	Roles       []string      `mapstructure:"roles"`
	DependsOn   []string      `mapstructure:"depends_on"` // for the actions that have no DependsOn of their own
	Facts       []string      `mapstructure:"facts"`      // PATH=VALUE
	Ready       ReadyConfig   `mapstructure:"ready"`
	Actions     []kick.Action `mapstructure:"actions"`
	LeaveOnStop string        `mapstructure:"leave_on_stop"` // one of the Goodbye constants
}

// ReadyConfig is how a node finds out whether its own service is ready.
type ReadyConfig struct {
	Check    string        `mapstructure:"check"` // without one, alive is ready
	Interval time.Duration `mapstructure:"interval"`
	Timeout  time.Duration `mapstructure:"timeout"`
	Rise     int           `mapstructure:"rise"` // successes in a row that make it ready
	Fall     int           `mapstructure:"fall"` // failures in a row that make it not ready
}

// Whether an agent that is stopped says goodbye, and so stops being a member at once.
const (
	LeaveAuto   = "auto" // if the machine is going down; else it says that it will be back soon
	LeaveAlways = "always"
	LeaveNever  = "never"
)

// The ports that kicker listens on, and asks, unless told otherwise.
const (
	BusPort = "7422"
	APIPort = "7423"
)

// Default is the settings that hold unless told otherwise.
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
	home, err := os.UserHomeDir()
	if err != nil {
		return "" // refused by the checks: it must then be set
	}
	return filepath.Join(home, ".local", "state", "kicker")
}

// complete works out the settings that follow others.
func (c *Config) complete() {
	if c.API.URL == "" {
		c.API.URL = "http://" + reachable(c.API.Listen)
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

// reachable is where one connects to, on the same machine, for what listens on listen.
func reachable(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if ip, ipErr := netip.ParseAddr(host); err == nil && (host == "" || ipErr == nil && ip.IsUnspecified()) {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return listen
}

// TokenPath is the file with the token that the controller's API wants from whoever changes something.
func (c Config) TokenPath() string {
	return cmp.Or(c.TokenFile, filepath.Join(c.StateDir, "token"))
}

// Servers are the URLs of the bus for an agent.
func (c AgentConfig) Servers() []string {
	var urls []string
	for _, s := range c.Server {
		if u, err := serverURL(s); err == nil { // Load has refused the others
			urls = append(urls, u)
		}
	}
	return urls
}

// Parse is the check that the settings describe. There must be one.
func (c ReadyConfig) Parse() (inventory.Check, error) {
	check, err := inventory.ParseCheck(c.Check)
	if err != nil {
		return inventory.Check{}, err
	}
	check.Interval, check.Timeout, check.Rise, check.Fall = c.Interval, c.Timeout, c.Rise, c.Fall
	return check, nil
}

// serverURL is the URL for a server of the bus given as HOST, HOST:PORT or URL.
func serverURL(s string) (string, error) {
	if strings.Contains(s, "://") {
		return s, checkURL(s, "nats", "tls", "ws", "wss")
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil { // no port
		host, port = strings.Trim(s, "[]"), BusPort
	}
	if _, err := netip.ParseAddr(host); err != nil && (host == "" || strings.ContainsAny(host, ":/ ,[]")) {
		return "", fmt.Errorf("%q is no server: write HOST, HOST:PORT or nats://HOST:PORT", s)
	}
	if err := checkPort(port); err != nil {
		return "", fmt.Errorf("%q: %w", s, err)
	}
	return "nats://" + net.JoinHostPort(host, port), nil
}

func checkURL(s string, schemes ...string) error {
	u, err := url.Parse(s)
	s = bus.Redacted(s)
	if wrong := (*url.Error)(nil); errors.As(err, &wrong) {
		return fmt.Errorf("%q: %w", s, wrong.Err) // the whole error would tell the password
	}
	for _, scheme := range schemes {
		if u.Scheme == scheme && u.Host != "" {
			return nil
		}
	}
	return fmt.Errorf("%q: write %s://HOST:PORT", s, strings.Join(schemes, "://HOST:PORT or "))
}
