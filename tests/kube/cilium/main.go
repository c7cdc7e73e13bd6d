// The agent of Cilium, for a kernel without loadable modules.
package main

import (
	"github.com/cilium/cilium/daemon/cmd"
	"github.com/cilium/cilium/pkg/datapath/linux/modules"
	"github.com/cilium/cilium/pkg/hive"
	"github.com/cilium/cilium/pkg/hive/cell"
)

func main() {
	// Its own manager of modules ends the agent where there is no /proc/modules, as in a kernel that
	// has everything built in. This one knows of no module, and so asks modprobe for those it wants.
	agent := cell.Decorate(func() *modules.Manager { return &modules.Manager{} }, cmd.Agent)
	cmd.Execute(cmd.NewAgentCmd(hive.New(agent)))
}
