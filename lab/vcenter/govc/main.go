// Command govc is govmomi's own command-line client, of the version that the simulator beside it is pinned to.
//
// Its commands are packages of that module; only its main program is published apart. Here are those that tests and
// the bench call.
package main

import (
	"os"

	"github.com/vmware/govmomi/cli"

	_ "github.com/vmware/govmomi/cli/about"
	_ "github.com/vmware/govmomi/cli/object"
	_ "github.com/vmware/govmomi/cli/vm"
)

func main() {
	os.Exit(cli.Run(os.Args[1:]))
}
