package main

import (
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"kicker/cmd/kicker/internal/print"
	"kicker/controller/api"
)

func rolesCommand() *cobra.Command {
	return asks(&cobra.Command{
		Use:   "roles [role/R]",
		Short: "List the roles, or the members and dependents of one",
		Long: `List the roles, or the members and dependents of one.

With -o json the members of one role are an error, and the exit code is 1, if the role has fewer members than its
min_members: a script must not take a short list for the whole one. Without -o json they are shown, with that reason. If
the controller does not know all members yet, it is 3.`,
		Example: "  kicker roles\n  kicker roles role/web",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			list := func(roles []api.Role, _ time.Time) string { return print.Roles(roles, output(cmd)) }
			if len(args) == 0 {
				_, err := get(cmd, "/v1/roles", nil, list)
				return err
			}
			_, name, err := object(args[0], "role")
			if err != nil {
				return err
			}
			query := url.Values{}
			if output(cmd) != "json" { // a person may look at a role that is too small; a script gets an error
				query.Set("min", "0")
			}
			_, err = get(cmd, "/v1/roles/"+url.PathEscape(name), query, func(role api.Role, now time.Time) string {
				if output(cmd) == "name" {
					return list([]api.Role{role}, now)
				}
				return print.Role(role, now)
			})
			return err
		},
	}, "table", "json", "name")
}
