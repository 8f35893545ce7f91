SELECT crm.upgrade_workspace('sales');
