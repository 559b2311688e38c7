package main

import (
	"os"

	"github.com/spf13/cobra"

	"kicker/cmd/kicker/internal/render"
)

const renderHelp = `Renders a Go text/template from the members file of a kick, and replaces FILE only if that changes
it and the check succeeds. The template sees the members file as it is:

  {{range .roles.web}}server {{.node}} {{.facts.ipaddress}}:{{.facts.port}}
  {{end}}

A missing role, fact or variable is an error. Beside Go's own functions there are these,
and index is as strict:

  get OBJECT "facts.site.room" "lobby"   the value at a path, or else the last one
  env "NAME" "lobby"                     the environment variable, or else the last one
  default 80 VALUE                       VALUE, or 80 if it is empty
  join "," LIST                          the list's items in one text
  json VALUE                             VALUE as JSON

CMD is split into words as a shell does, but no shell runs it. {} in --check stands for
the new file before it replaces FILE. --reload runs if FILE changed, and again at the next
render until it has succeeded: .FILE.kicker-pending beside FILE remembers that. If $KICKER_FORCE
is 1, as in a run that 'kicker kick --force' orders, both run even if FILE does not change.`

func renderCommand() *cobra.Command {
	var job render.Job
	cmd := &cobra.Command{
		Use:   "render TEMPLATE",
		Short: "Render a file from the members that a kick hands over",
		Long:  renderHelp,
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			job.Template, job.Stdout, job.Stderr = args[0], cmd.OutOrStdout(), cmd.ErrOrStderr()
			if job.Members == "" {
				job.Members = os.Getenv("KICKER_MEMBERS_FILE")
			}
			job.Force = os.Getenv("KICKER_FORCE") == "1"
			if err := job.Validate(); err != nil {
				return usageError("render: %w", err)
			}
			return job.Run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVarP(&job.File, "output", "o", "", "the `FILE` to write (default: stdout)")
	f.StringVar(&job.Members, "members", "", "the members `FILE` (default: $KICKER_MEMBERS_FILE)")
	f.StringVar(&job.Check, "check", "", "`CMD` that must succeed before FILE is replaced, as in 'haproxy -c -f {}'")
	f.StringVar(&job.Reload, "reload", "", "`CMD` to run when FILE was replaced, as in 'systemctl reload haproxy'")
	return cmd
}
