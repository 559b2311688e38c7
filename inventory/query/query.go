// Package query is the language that selects nodes by their facts.
package query
