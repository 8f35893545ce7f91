SELECT crm.create_workspace('trap');
