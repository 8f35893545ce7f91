\echo Use "CREATE EXTENSION crm_test" to load this file. \quit
