package main

import (
	"fmt"
	"path"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

var macs atomic.Uint32

// childLevel says what a fork adds to its parent's disk.
type childLevel struct {
	delta bool
}

// copyMachine makes a powered-on VM like *source*, in no inventory yet.
//
// Not by the simulator's own CloneVM, which writes files for 30 ms and panics when it runs concurrently.
func copyMachine(source *simulator.VirtualMachine, name, bios string, level childLevel) *simulator.VirtualMachine {
	vm := *source
	now := time.Now()
	vm.Self = types.ManagedObjectReference{Type: "VirtualMachine"}
	vm.Name = name
	vm.CustomValue, vm.Value = nil, nil
	vm.Snapshot, vm.DataSets = nil, map[string]*simulator.DataSet{}
	vm.Config = copyConfig(source.Config, name, bios, now)
	vm.Config.Hardware.Device = copyDevices(source.Config.Hardware.Device, name, level)
	vm.Runtime.PowerState = types.VirtualMachinePowerStatePoweredOn
	vm.Runtime.InstantCloneFrozen = types.NewBool(false)
	vm.Runtime.BootTime = &now
	guest := *source.Guest
	guest.Net, guest.IpAddress, guest.HostName = nil, "", ""
	vm.Guest = &guest
	vm.Layout = &types.VirtualMachineFileLayout{}
	vm.LayoutEx = &types.VirtualMachineFileLayoutEx{Timestamp: now}
	vm.Storage = &types.VirtualMachineStorageInfo{Timestamp: now}
	vm.Summary.Config.Name, vm.Summary.Config.Uuid = name, bios
	vm.Summary.Config.InstanceUuid = vm.Config.InstanceUuid
	vm.Summary.Config.VmPathName = vm.Config.Files.VmPathName
	summary := types.VirtualMachineGuestSummary{}
	vm.Summary.Guest = &summary
	vm.Summary.Runtime = vm.Runtime
	vm.Network = append([]types.ManagedObjectReference{}, source.Network...)
	vm.Datastore = append([]types.ManagedObjectReference{}, source.Datastore...)
	setTools(&vm, true)
	return &vm
}

func copyConfig(source *types.VirtualMachineConfigInfo, name, bios string, now time.Time) *types.VirtualMachineConfigInfo {
	config := *source
	directory := object.DatastorePath{Datastore: datastoreName, Path: name}
	config.Name, config.Uuid, config.InstanceUuid = name, bios, uuid.NewString()
	config.Annotation = ""
	config.CreateDate, config.Modified = &now, now
	config.Files = types.VirtualMachineFileInfo{
		VmPathName:        (&object.DatastorePath{Datastore: datastoreName, Path: path.Join(name, name+".vmx")}).String(),
		LogDirectory:      directory.String(),
		SnapshotDirectory: directory.String(),
		SuspendDirectory:  directory.String(),
	}
	config.ExtraConfig = append([]types.BaseOptionValue{}, source.ExtraConfig...)
	return &config
}

// copyDevices gives NICs a MAC and a connection of their own and disks a level of their own; controllers are shared.
func copyDevices(source []types.BaseVirtualDevice, name string, level childLevel) []types.BaseVirtualDevice {
	devices := make([]types.BaseVirtualDevice, len(source))
	for index, device := range source {
		switch real := device.(type) {
		case *types.VirtualVmxnet3:
			card := *real
			connectable := *real.Connectable
			card.Connectable = &connectable
			card.MacAddress = nextMAC()
			card.AddressType = string(types.VirtualEthernetCardMacTypeAssigned)
			givePort(&card.VirtualEthernetCard)
			devices[index] = &card
		case *types.VirtualDisk:
			disk := *real
			if backing, ok := real.Backing.(*types.VirtualDiskFlatVer2BackingInfo); ok && level.delta {
				disk.Backing = deltaOf(backing, name)
			}
			devices[index] = &disk
		default:
			devices[index] = device
		}
	}
	return devices
}

func deltaOf(backing *types.VirtualDiskFlatVer2BackingInfo, name string) *types.VirtualDiskFlatVer2BackingInfo {
	delta := *backing
	delta.FileName = (&object.DatastorePath{Datastore: datastoreName, Path: path.Join(name, name+".vmdk")}).String()
	delta.Uuid = uuid.NewString()
	delta.Parent = backing
	return &delta
}

// nextMAC is one of those that vCenter assigns: 00:50:56 and then at most 3f.
func nextMAC() string {
	n := macs.Add(1)
	return fmt.Sprintf("00:50:56:%02x:%02x:%02x", (n>>16)&0x3f, (n>>8)&0xff, n&0xff)
}

func setTools(vm *simulator.VirtualMachine, running bool) {
	status, health := types.VirtualMachineToolsRunningStatusGuestToolsNotRunning, types.VirtualMachineToolsStatusToolsNotRunning
	if running {
		status, health = types.VirtualMachineToolsRunningStatusGuestToolsRunning, types.VirtualMachineToolsStatusToolsOk
	}
	vm.Guest.ToolsRunningStatus, vm.Guest.ToolsStatus = string(status), health
	vm.Guest.GuestOperationsReady = &running
	vm.Guest.GuestState = map[bool]string{true: "running", false: "notRunning"}[running]
	vm.Summary.Guest.ToolsRunningStatus, vm.Summary.Guest.ToolsStatus = string(status), health
}

// plugIn connects the last network card: that a fork asks for another state of it binds nobody.
func plugIn(vm *simulator.VirtualMachine) {
	var last *types.VirtualEthernetCard
	for _, device := range vm.Config.Hardware.Device {
		if card, ok := device.(types.BaseVirtualEthernetCard); ok {
			last = card.GetVirtualEthernetCard()
		}
	}
	if last != nil {
		last.Connectable.Connected = true
	}
}

// findNIC is the VM's first network card, as it is now.
func findNIC(vm *simulator.VirtualMachine) *types.VirtualEthernetCard {
	for _, device := range vm.Config.Hardware.Device {
		if card, ok := device.(types.BaseVirtualEthernetCard); ok {
			return card.GetVirtualEthernetCard()
		}
	}
	return nil
}

// enter puts the VM into a folder, its host, its pool and its datastore.
func (v *vcenter) enter(ctx *simulator.Context, vm *simulator.VirtualMachine, folder, pool types.ManagedObjectReference) types.BaseMethodFault {
	parent, ok := v.registry.Get(folder).(*simulator.Folder)
	if !ok {
		return &types.ManagedObjectNotFound{Obj: folder}
	}
	resources, ok := v.registry.Get(pool).(*simulator.ResourcePool)
	if !ok {
		return &types.ManagedObjectNotFound{Obj: pool}
	}
	host := v.hostOf(vm)
	vm.ResourcePool = &pool
	vm.Summary.Runtime = vm.Runtime
	var fault types.BaseMethodFault
	ctx.WithLock(parent, func() {
		if there := v.registry.FindByName(vm.Name, parent.ChildEntity); there != nil {
			fault = &types.DuplicateName{Name: vm.Name, Object: there.Reference()}
			return
		}
		v.registry.NewEntity(vm)
		vm.Summary.Vm = &vm.Self
		parent.ChildEntity = append(parent.ChildEntity, vm.Self)
		ctx.WithLock(vm, func() { v.registry.PutEntity(parent, vm) })
	})
	if fault != nil {
		return fault
	}
	v.registry.AppendReference(ctx, resources, &resources.Vm, vm.Self)
	ctx.WithLock(host, func() {
		host.Vm = append(host.Vm, vm.Self)
		host.Summary.QuickStats.OverallMemoryUsage += vm.Config.Hardware.MemoryMB
	})
	for _, ref := range vm.Datastore {
		if datastore, ok := v.registry.Get(ref).(*simulator.Datastore); ok {
			ctx.WithLock(datastore, func() {
				datastore.Vm = append(datastore.Vm, vm.Self)
				datastore.Summary.FreeSpace -= childBytes
				datastore.Info.GetDatastoreInfo().FreeSpace = datastore.Summary.FreeSpace
			})
		}
	}
	return nil
}
