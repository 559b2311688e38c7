package main

import (
	"net/url"

	"github.com/spf13/cobra"

	"kicker/cmd/kicker/internal/print"
	"kicker/controller/api"
)

func rolesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "roles [role/R]",
		Short:   "List the roles, or the members and dependents of one",
		Example: "  kicker roles\n  kicker roles role/web",
		Args:    cobra.MaximumNArgs(1),
	}
	clientFlags(cmd)
	outputFlag(cmd, "table", "json", "name")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 {
			return showRole(cmd, args[0])
		}
		var roles []api.Role
		raw, _, err := get(cmd, "/v1/roles", nil, &roles)
		if err != nil {
			return err
		}
		text := print.Roles(roles)
		if output(cmd) == "name" {
			text = ""
			for _, r := range roles {
				text += "role/" + r.Name + "\n"
			}
		}
		return show(cmd, raw, text)
	}
	return cmd
}

func showRole(cmd *cobra.Command, arg string) error {
	_, name, err := object(arg, "role")
	if err != nil {
		return err
	}
	var role api.Role
	raw, now, err := get(cmd, "/v1/roles/"+url.PathEscape(name), nil, &role)
	if err != nil {
		return err
	}
	text := print.Role(role, now)
	if output(cmd) == "name" {
		text = "role/" + role.Name + "\n"
	}
	return show(cmd, raw, text)
}
