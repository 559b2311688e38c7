//go:build !linux

package demo

import (
	"errors"
	"syscall"
)

func adoptOrphans() (*syscall.SysProcAttr, error) { return nil, errors.New("it needs Linux") }
